"""A check at step 0 of a run that starts from trained weights.

A wrong tokenizer, padding, case or pixel range raises no error: the towers take
any numbers. But the loss of the true pairs of images and texts is then hardly
lower than the loss of shuffled pairs. For a trained model that gets the right
input, it is much lower.
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

# Largest ratio of the true pairs' loss to the shuffled pairs' loss that counts
# as correct. The emoji model on its own data has 0.03; with texts padded with
# another id 0.20; with another tokenizer 0.99.
SUSPICIOUS = 0.15


@dataclasses.dataclass(frozen=True, kw_only=True)
class Losses:
  """Losses at step 0.

  Attributes:
    paired: loss of the batch as it is.
    shuffled: loss of the same batch with each text moved to the next image.
  """

  paired: float
  shuffled: float

  @property
  def suspicious(self) -> bool:
    """Whether the true pairs' loss is not clearly below the shuffled pairs'."""
    return not self.paired < SUSPICIOUS * self.shuffled


def applies(config: Any) -> bool:
  """Whether both towers load all their weights; else they need not agree."""
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
    state: the state at step 0, which is not changed.
    batch: a batch with one "text" per image.
    scores: scores of the evaluations at step 0.
    to_user: whether this process reports to the user.
  """
  losses = compare(loss, state, batch)
  if to_user:
    report(losses, scores)


def compare(loss: Callable, state: Any, batch: Mapping) -> Losses:
  """Returns the losses of the true pairs and of shuffled pairs.

  Args:
    loss: (state, batch) -> the loss, as `run.Run.loss`.
    state: the state at step 0, which is not changed.
    batch: a batch with one "text" per image.
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
  """Prints the losses and scores, and warns if the losses are suspicious."""
  print(
      f"Step 0: loss {losses.paired:.4g}; with the texts shuffled"
      f" {losses.shuffled:.4g}"
  )
  for s in scores:
    if s.headline:
      print(f"Step 0: {s.name} {s.value_text} (chance {s.chance_text})")
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
