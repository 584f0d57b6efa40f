"""Softmax losses against golden values, and the ring against the reference."""

import functools

import jax.numpy as jnp
import pairs
import pytest

from siglip_jax import losses


def test_reference_agrees_with_golden():
  pairs.check_golden(
      "softmax_t14", losses.softmax_loss, *pairs.golden(), jnp.log(14.0)
  )


@pytest.mark.parametrize("block", [3, 5, None])
def test_the_ring_over_two_axes_equals_the_reference(mesh, block):
  pairs.check_equal(
      functools.partial(
          losses.ring_softmax_loss, mesh=mesh, axis=pairs.AXES, block=block
      ),
      losses.softmax_loss,
      pairs.random(mesh, 40)[:3],
      rtol=1e-6,
  )


def test_the_ring_keeps_bfloat16_embeddings_to_their_rounding(mesh):
  pairs.check_bfloat16(
      functools.partial(
          losses.ring_softmax_loss, mesh=mesh, axis=pairs.AXES, block=3
      ),
      losses.softmax_loss,
      pairs.random(mesh, 64, dtype=jnp.bfloat16)[:3],
  )


def test_far_pairs_stay_finite_and_exact(mesh):
  zimg, ztxt, _, _ = pairs.random(mesh, 16)
  pairs.check_equal(
      functools.partial(
          losses.ring_softmax_loss, mesh=mesh, axis=pairs.AXES, block=2
      ),
      losses.softmax_loss,
      (zimg, ztxt, jnp.log(300.0)),
      rtol=2e-5,
  )


def test_the_ring_refuses_blocks_of_no_texts(mesh):
  z = jnp.ones((16, 4))
  with pytest.raises(ValueError, match="positive number of texts; got 0"):
    losses.ring_softmax_loss(
        z, z, jnp.float32(0), mesh=mesh, axis=pairs.AXES, block=0
    )
