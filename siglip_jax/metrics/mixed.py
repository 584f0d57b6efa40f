"""How far a run has read each source of a mixture."""

from collections.abc import Callable

from siglip_jax.data import order as order_lib
from siglip_jax.data.mixture import Mixture
from siglip_jax.data.sources import Source


def reading(
    source: Source,
    *,
    seed: int,
    batch_size: int,
    order: order_lib.OrderSpec = None,
) -> Callable[[int], dict[str, float]]:
  """Returns a function from the number of examples so far to metrics.

  For each source of a mixture, `data/share/NAME` is its share of the examples
  and `data/epochs/NAME` how often it was read. Both follow from the order
  alone, so that they are exact after any restart. Other sources have none.

  Args:
    source: the training data.
    seed: seed of the order.
    batch_size: examples in a batch of all processes.
    order: the order of the data; see `order.make`.
  """
  if not isinstance(source, Mixture):
    return lambda examples: {}
  names = source.names
  mixed = source.mixed(seed=seed, order=order, batch_size=batch_size)

  def metrics(examples: int) -> dict[str, float]:
    values = {}
    counts = zip(names, mixed.counts(examples), mixed.orders, strict=True)
    for name, count, own in counts:
      values[f"data/share/{name}"] = count / max(examples, 1)
      values[f"data/epochs/{name}"] = count / own.epoch
    return values

  return metrics
