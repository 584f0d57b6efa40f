"""Kept negatives against a choice made on whole matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pairs
import pytest

from siglip_jax import losses


def dense_choice(zimg, ztxt, t_prime, b, keep, ratio, key):
  """Which pairs count: an image at a time, on whole matrices."""
  logits = np.exp(t_prime) * zimg @ ztxt.T + b
  n = len(zimg)
  kept = np.eye(n, dtype=bool)
  for i, order in enumerate(logits if keep == "easiest" else -logits):
    if keep == "random":
      order = np.array(jax.random.uniform(jax.random.fold_in(key, i), (n,)))
    order[i] = np.inf
    kept[i, np.argsort(order)[: round(ratio * (n - 1))]] = True
  return kept


def dense_masked(zimg, ztxt, t_prime, b, kept):
  logits = jnp.exp(t_prime) * zimg @ ztxt.T + b
  labels = 2 * jnp.eye(len(zimg)) - 1
  return -jnp.sum(kept * jax.nn.log_sigmoid(labels * logits)) / len(zimg)


@pytest.mark.parametrize("keep", ["random", "hardest", "easiest"])
def test_kept_negatives_are_those_of_a_dense_reference(mesh, keep):
  args = pairs.random(mesh, 24)
  key = jax.random.key(3)

  def masked(*a, ratio=0.3):
    return losses.masked_sigmoid_loss(
        *a, key, keep=keep, ratio=ratio, mesh=mesh, axis=pairs.AXES, block=2
    )

  numbers = (0, 1, 2, 3)
  value, grads = jax.jit(jax.value_and_grad(masked, numbers))(*args)
  host = jax.device_get(args)
  kept = dense_choice(*host, keep, 0.3, key)
  wanted, wanted_grads = jax.value_and_grad(
      lambda *a: dense_masked(*a, kept), numbers
  )(*host)
  np.testing.assert_allclose(value, wanted, rtol=1e-6)
  for got, want in zip(grads, wanted_grads, strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
      masked(*args, ratio=1.0), losses.sigmoid_loss(*args), rtol=1e-6
  )


def test_hard_negatives_cost_more_than_easy_ones(mesh):
  args = pairs.random(mesh, 24)
  hard, some, easy = (
      float(
          losses.masked_sigmoid_loss(
              *args,
              jax.random.key(0),
              keep=keep,
              ratio=0.5,
              mesh=mesh,
              axis=pairs.AXES,
          )
      )
      for keep in ("hardest", "random", "easiest")
  )
  assert easy < some < hard
