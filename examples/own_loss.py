"""A loss of your own: the sigmoid loss with focal weighting, trained on emoji.

  python examples/own_loss.py WORKDIR [STEPS]

needs the data set that `make train` builds. A config can name the loss as soon
as it is in `losses.LOSSES`; everything else is configs/emoji.py. Prints what
any run prints, here of 500 steps (40 s on two busy cores), and the workdir
loads like any other:

  step 100/500 loss 1.30 315 examples/s 0:41 left
  ...
  step 500/500 loss 1.01 1343 examples/s 0:00 left
  Final metrics
  ...
  Report: runs/focal/report.html
"""

import runpy
import sys

import jax
import jax.numpy as jnp

from siglip_jax import losses
from siglip_jax import train


def focal_sigmoid_loss(
    zimg: jax.Array,
    ztxt: jax.Array,
    t_prime: jax.Array,
    b: jax.Array,
    *,
    gamma: float = 2.0,
) -> jax.Array:
  """Returns the sum over all pairs of -(1 - p)^gamma log p, divided by B.

  p is the probability that the model gives to a pair's true label. Of the B
  pairs of an image B - 1 are negatives, most of them soon easy; the factor
  (1 - p)^gamma keeps their sum from outweighing the rest (Lin et al., arXiv
  1708.02002). At gamma 0 this is the sigmoid loss.

  Args:
    zimg: L2-normalised image embeddings (B, D).
    ztxt: L2-normalised text embeddings (B, D); row i belongs to image i.
    t_prime: log temperature.
    b: bias.
    gamma: exponent, 0 or more.
  """
  cosines = jnp.dot(zimg, ztxt.T, preferred_element_type=jnp.float32)
  labels = 2 * jnp.eye(len(zimg)) - 1
  # p = sigmoid(x) of the margin x = label * logit, and 1 - p = sigmoid(-x), so
  #   -(1 - p)^gamma log p = -exp(gamma log sigmoid(-x)) log sigmoid(x).
  # In this form the gradient stays finite where 1 - p rounds to 0.
  x = labels * (jnp.exp(t_prime) * cosines + b)
  factor = jnp.exp(gamma * jax.nn.log_sigmoid(-x))
  return -jnp.sum(factor * jax.nn.log_sigmoid(x)) / len(zimg)


# `learns` names the scalar parameters that follow the embeddings.
losses.LOSSES["focal_sigmoid"] = losses.Loss(
    function=focal_sigmoid_loss, learns=("t", "b")
)


def main(workdir: str, steps: int = 500) -> int:
  """Trains configs/emoji.py with the loss; returns the exit status."""
  config = runpy.run_path("configs/emoji.py")["get_config"](f"steps={steps}")
  # `name` picks the loss. The other keys are the arguments after its `*`.
  config.loss = dict(name="focal_sigmoid", gamma=2.0)
  config.log_steps = max(steps // 5, 1)
  return train.train_and_evaluate(config, workdir)


if __name__ == "__main__":
  if len(sys.argv) not in (2, 3):
    sys.exit(__doc__)
  sys.exit(main(sys.argv[1], *map(int, sys.argv[2:])))
