"""Step 0 of runs that start from weights: true pairs against shuffled ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siglip_jax import losses
from siglip_jax import sanity
from siglip_jax.evals.scores import Score
from siglip_jax.evals.scores import mean

BATCH = {
    "image": jnp.eye(6, dtype=jnp.float32),
    "text": jnp.eye(6, dtype=jnp.float32),
}


def make_loss(understands: bool):
  """Of towers that agree on pairs, or of a text tower that reads noise."""
  noise = jax.random.permutation(jax.random.key(0), 6)

  def loss(state, batch):
    text = batch["text"] if understands else batch["text"][:, noise]
    return losses.sigmoid_loss(
        batch["image"], text, jnp.log(20.0) + state, jnp.float32(-10)
    )

  return jax.jit(loss)


def test_true_pairs_are_told_from_shuffled_ones():
  pair = sanity.compare(make_loss(True), jnp.float32(0), BATCH)
  expected = [
      float(
          losses.sigmoid_loss(
              BATCH["image"], t, jnp.log(20.0), jnp.float32(-10)
          )
      )
      for t in (BATCH["text"], jnp.roll(BATCH["text"], 1, axis=0))
  ]
  np.testing.assert_allclose([pair.paired, pair.shuffled], expected, rtol=1e-6)
  assert not pair.suspicious
  assert sanity.compare(make_loss(False), jnp.float32(0), BATCH).suspicious


@pytest.mark.parametrize("paired", [2.0, 9.0, float("nan")])
def test_a_suspicious_loss_is_warned_of(capsys, caplog, paired):
  score = Score(name="zeroshot/a/top1", value=0.5, lo=0, hi=1, chance=0.1, n=6)
  sanity.report(sanity.Losses(paired=paired, shuffled=9.0), [score])
  out = capsys.readouterr().out
  assert "with the texts shuffled 9" in out and "zeroshot/a/top1 50.0%" in out
  assert "the tokenizer, its padding" in caplog.text
  loss = mean("loss/a", np.full(4, 2.5), 5.5)
  sanity.report(sanity.Losses(paired=paired, shuffled=9.0), [loss])
  assert "loss/a 2.50 (chance 5.500)" in capsys.readouterr().out
  caplog.clear()
  sanity.report(sanity.Losses(paired=0.5, shuffled=9.0), [])
  assert not caplog.text


@pytest.mark.parametrize(
    "init, applies",
    [
        (None, False),
        ({}, False),
        ({"img": {"path": "a"}}, False),  # LiT: the texts are still noise
        ({"img": {"path": "a"}, "txt": {"path": "a"}}, True),
        (
            {
                "img": {"path": "a"},
                "txt": {"path": "a", "dont_load": ["head.*"]},
            },
            False,
        ),
    ],
)
def test_only_runs_with_both_towers_trained_are_looked_at(init, applies):
  config = {} if init is None else {"init": init}
  assert sanity.applies(config) == applies
