"""A look at step 0 of a run that starts from trained weights.

A wrong tokenizer, padding, case or range of pixels raises no error: the towers
take any numbers. But then the true pairing of images and texts is hardly
better than another, which a model that was trained would never say.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp

from siglip_jax.evals.scores import Score

# The loss of the true pairing, as a share of that of a wrong one, above which
# something is taken to be wrong. The emoji model on its own data: 0.03; texts
# padded with another id 0.20; with another tokenizer 0.99.
SUSPICIOUS = 0.15
_HEADLINES = ("/top1", "@1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Losses:
  """Losses at step 0.

  Attributes:
    paired: of the batch as it is.
    shuffled: of the same batch, each text moved on to the next image.
  """

  paired: float
  shuffled: float

  @property
  def suspicious(self) -> bool:
    """Whether the true pairing is not clearly the better one."""
    return not self.paired < SUSPICIOUS * self.shuffled


def applies(config: Any) -> bool:
  """Whether both towers start from weights, whole: else they need not agree."""
  init = config["init"] if "init" in config else {}
  return all(
      tower in init and not init[tower].get("dont_load")
      for tower in ("img", "txt")
  )


def check(
    loss: Callable,
    state: Any,
    batch: Mapping,
    scores: Sequence[Score],
    to_user: bool,
) -> None:
  """Compares the losses on every process, and reports them on one.

  Args:
    loss: (state, batch) -> the loss, as `run.Run.loss`.
    state: at step 0, which is not changed.
    batch: has "text", one an image.
    scores: of the evaluations at step 0.
    to_user: whether this process talks to the user.
  """
  losses = compare(loss, state, batch)
  if to_user:
    report(losses, scores)


def compare(loss: Callable, state: Any, batch: Mapping) -> Losses:
  """Returns the loss of the true pairs and of shuffled ones.

  Args:
    loss: (state, batch) -> the loss, as `run.Run.loss`.
    state: at step 0, which is not changed.
    batch: has "text", one an image.
  """
  shuffle = jax.jit(
      lambda batch: batch | {"text": jnp.roll(batch["text"], 1, axis=0)}
  )
  paired, shuffled = (
      float(jax.device_get(loss(state, b)))
      for b in (batch, shuffle(dict(batch)))
  )
  return Losses(paired=paired, shuffled=shuffled)


def report(losses: Losses, scores: Sequence[Score]) -> None:
  """Prints what was seen, and warns where something is wrong."""
  print(
      f"Step 0: loss {losses.paired:.4g}; with the texts shuffled"
      f" {losses.shuffled:.4g}"
  )
  for s in scores:
    if s.name.endswith(_HEADLINES):
      print(f"Step 0: {s.name} {s.value:.1%} (chance {s.chance:.2%})")
  if losses.suspicious:
    logging.warning(
        "The initial weights hardly tell true pairs from shuffled ones (loss"
        " %.4g and %.4g). Something may not be what they were trained with: the"
        " tokenizer, its padding, lower case, the range of the pixels, or"
        " captions in another language. Compare config.preprocess with the"
        " model's own.",
        losses.paired,
        losses.shuffled,
    )
