"""Sigmoid losses against golden values, and the ring against the reference."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pairs
import pytest

from siglip_jax import losses
from siglip_jax import sharding

SIGMOID = {"sigmoid_t10_b-10": (10.0, -10.0), "sigmoid_t25_b-7.5": (25.0, -7.5)}


@pytest.mark.parametrize("name", SIGMOID)
def test_reference_agrees_with_golden(name):
  t, b = SIGMOID[name]
  pairs.check_golden(
      name, losses.sigmoid_loss, *pairs.golden(), jnp.log(t), jnp.float32(b)
  )


def test_the_mean_variant_agrees_with_golden():
  pairs.check_golden("bce_mean_t0.07", losses.bce_mean_loss, *pairs.golden())


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("block", [2, 1024])
def test_ring_agrees_with_golden_on_any_number_of_devices(devices, block):
  mesh = sharding.make_mesh(devices=jax.devices()[:devices])
  rows = NamedSharding(mesh, P(("data", "fsdp")))

  def ring(*args):
    return losses.ring_sigmoid_loss(
        *args, mesh=mesh, axis=("data", "fsdp"), block=block
    )

  name = "sigmoid_t25_b-7.5"
  t, b = SIGMOID[name]
  zimg, ztxt = jax.device_put(pairs.golden(), rows)
  pairs.check_golden(name, ring, zimg, ztxt, jnp.log(t), jnp.float32(b))


@pytest.mark.parametrize("block", [3, 5, None])
def test_the_ring_over_two_axes_equals_the_reference(mesh, block):
  pairs.check_equal(
      functools.partial(
          losses.ring_sigmoid_loss, mesh=mesh, axis=pairs.AXES, block=block
      ),
      losses.sigmoid_loss,
      pairs.random(mesh, 40),
      rtol=1e-6,
  )


def test_the_ring_keeps_bfloat16_embeddings_to_their_rounding(mesh):
  pairs.check_bfloat16(
      functools.partial(
          losses.ring_sigmoid_loss, mesh=mesh, axis=pairs.AXES, block=3
      ),
      losses.sigmoid_loss,
      pairs.random(mesh, 64, dtype=jnp.bfloat16),
  )


def test_a_scaled_ring_loss_has_scaled_gradients(mesh):
  args = pairs.random(mesh, 16)
  ring = lambda *a: losses.ring_sigmoid_loss(*a, mesh=mesh, axis=pairs.AXES)
  one = jax.grad(ring, (0, 1, 2, 3))(*args)
  three = jax.grad(lambda *a: 3 * ring(*a), (0, 1, 2, 3))(*args)
  for a, b in zip(one, three, strict=True):
    np.testing.assert_allclose(3 * a, b, rtol=1e-6)


def test_sure_and_far_pairs_stay_finite_and_exact(mesh):
  zimg, _, _, _ = pairs.random(mesh, 16)
  pairs.check_equal(
      functools.partial(
          losses.ring_sigmoid_loss, mesh=mesh, axis=pairs.AXES, block=2
      ),
      losses.sigmoid_loss,
      # Logits from -390 to 210.
      (zimg, zimg, jnp.log(300.0), jnp.float32(-90.0)),
      rtol=2e-5,
  )


def test_shuffling_the_pairs_keeps_the_loss():
  zimg, ztxt = pairs.golden()
  order = np.random.default_rng(0).permutation(len(zimg))
  args = jnp.log(10.0), jnp.float32(-10.0)
  np.testing.assert_allclose(
      losses.sigmoid_loss(zimg[order], ztxt[order], *args),
      losses.sigmoid_loss(zimg, ztxt, *args),
      rtol=1e-6,
  )


def test_the_ring_refuses_a_batch_that_does_not_divide(mesh):
  z = jnp.ones((12, 4))
  with pytest.raises(ValueError, match="multiple of 8"):
    losses.ring_sigmoid_loss(
        z, z, jnp.float32(0), jnp.float32(0), mesh=mesh, axis=("data", "fsdp")
    )
