"""When too many examples could not be read, so that a run should end."""

import math

# How rarely a run may end by chance, if exactly the share that the limit allows
# is unreadable: with this probability at each check, at most.
CHANCE = 1e-4


def replaced_too_many(
    replaced: int, examples: int, limit: float, *, distinct: int | None = None
) -> bool:
  """Whether the share of replaced examples is over a limit beyond chance.

  One unreadable example among the first few is a large share and says little.
  The lower end of the share's confidence interval decides, by the bound of
  Chernoff and Hoeffding: if a share `limit` is unreadable, the probability that
  a share s > limit of n examples is at most exp(-n KL(s || limit)).

  Args:
    replaced: number of examples so far that were replaced.
    examples: number of examples so far.
    limit: largest share that is allowed. At 0, a single one is too many.
    distinct: number of examples in the data. After an epoch the same unreadable
      ones return, which shows nothing new, so no more than one epoch counts.
  """
  if not replaced or limit >= 1:
    return False
  if limit <= 0:
    return True
  share = min(replaced / examples, 1.0)
  if share <= limit:
    return False
  count = examples if distinct is None else min(examples, distinct)
  divergence = share * math.log(share / limit)
  if share < 1:
    divergence += (1 - share) * math.log((1 - share) / (1 - limit))
  return count * divergence > -math.log(CHANCE)
