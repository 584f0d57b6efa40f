"""What ends a program early, and the statuses that programs end with."""

import errno

DONE = 0
BAD_INPUT = 2  # the same command would fail again
TRY_AGAIN = 75  # EX_TEMPFAIL: the same command goes on from what is saved

# Errors of the system that mean: there is no room to write.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(ValueError):
  """Bad input. The message is the rule, what came, and what to do.

  The command lines print it without a traceback and exit with BAD_INPUT.
  """


class TryAgain(RuntimeError):
  """No fault of the input: a worker, the network or a disk of another host.

  The command lines print it without a traceback and exit with TRY_AGAIN.
  """
