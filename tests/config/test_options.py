"""Sections that belong to no constructor."""

import pytest

from siglip_jax.config import options


@pytest.mark.parametrize(
    "metric, mode, lower",
    [
        ("train/loss", "", True),
        ("loss/captions", "", True),
        ("zeroshot/colors/top1", "", False),
        ("zeroshot/colors/top1", "min", True),
        ("loss/captions", "max", False),
    ],
)
def test_a_loss_falls_and_a_score_rises_unless_told_otherwise(
    metric, mode, lower
):
  assert options.lower_is_better(metric, mode) == lower


def test_by_default_only_the_newest_checkpoints_are_kept():
  ckpt = options.Ckpt(save_steps=1, keep=2)
  assert (ckpt.keep_every, ckpt.best, ckpt.best_mode) == (0, "", "")
