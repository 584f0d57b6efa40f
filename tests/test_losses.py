"""Losses against golden values, the reference, and each other."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from siglip_jax import losses
from siglip_jax import sharding

GOLDEN = np.load("tests/data/loss_golden.npz")
SIGMOID = {"sigmoid_t10_b-10": (10.0, -10.0), "sigmoid_t25_b-7.5": (25.0, -7.5)}


def check(name, loss, *args, rtol=1e-5):
  wanted = ["d_zimg", "d_ztxt", "d_t_prime", "d_b"][: len(args)]
  value, grads = jax.jit(
      jax.value_and_grad(loss, argnums=tuple(range(len(args))))
  )(*args)
  np.testing.assert_allclose(value, GOLDEN[f"{name}/loss"], rtol=rtol)
  for key, grad in zip(wanted, grads, strict=True):
    expected = GOLDEN[f"{name}/{key}"]
    np.testing.assert_allclose(
        grad, expected, rtol=rtol, atol=rtol * np.abs(expected).max()
    )


def embeddings():
  return jnp.float32(GOLDEN["zimg"]), jnp.float32(GOLDEN["ztxt"])


@pytest.mark.parametrize("name", SIGMOID)
def test_reference_agrees_with_golden(name):
  t, b = SIGMOID[name]
  check(name, losses.sigmoid_loss, *embeddings(), jnp.log(t), jnp.float32(b))


def test_variants_agree_with_golden():
  check("bce_mean_t0.07", losses.bce_mean_loss, *embeddings())
  check("softmax_t14", losses.softmax_loss, *embeddings(), jnp.log(14.0))


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
  zimg, ztxt = jax.device_put(embeddings(), rows)
  check(name, ring, zimg, ztxt, jnp.log(t), jnp.float32(b))


def test_ring_over_two_axes_is_the_reference(mesh):
  keys = jax.random.split(jax.random.key(0), 2)
  zimg, ztxt = (jax.random.normal(k, (40, 16)) / 4 for k in keys)
  args = (zimg, ztxt, jnp.log(7.0), jnp.float32(-3.0))
  expected = losses.sigmoid_loss(*args)
  value = losses.ring_sigmoid_loss(
      *args, mesh=mesh, axis=("data", "fsdp"), block=3
  )
  np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_shuffling_the_pairs_keeps_the_loss():
  zimg, ztxt = embeddings()
  order = np.random.default_rng(0).permutation(len(zimg))
  args = jnp.log(10.0), jnp.float32(-10.0)
  np.testing.assert_allclose(
      losses.sigmoid_loss(zimg[order], ztxt[order], *args),
      losses.sigmoid_loss(zimg, ztxt, *args),
      rtol=1e-6,
  )


def test_ring_refuses_a_batch_that_does_not_divide(mesh):
  z = jnp.ones((12, 4))
  with pytest.raises(ValueError, match="multiple of 8"):
    losses.ring_sigmoid_loss(
        z, z, jnp.float32(0), jnp.float32(0), mesh=mesh, axis=("data", "fsdp")
    )
