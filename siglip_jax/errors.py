"""The one exception that means: the user can mend this."""


class UserError(ValueError):
  """Bad input. The message is the rule, what came, and what to do.

  The command lines print it without a traceback and exit with status 2.
  """
