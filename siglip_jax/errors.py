"""Errors that end a program early, and the exit statuses of programs."""

import errno

DONE = 0
BAD_INPUT = 2  # the same command would fail again
TRY_AGAIN = 75  # EX_TEMPFAIL: the same command continues from what is saved

# System error numbers that mean that the disk has no room left.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(ValueError):
  """Bad input. The message gives the rule, the actual value and the fix.

  The command lines print it without a traceback and exit with BAD_INPUT.
  """


class TryAgain(RuntimeError):
  """A failure outside the input: a worker, the network, another host's disk.

  The command lines print it without a traceback and exit with TRY_AGAIN.
  """
