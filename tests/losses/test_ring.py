"""The ring: which device meets which texts, and what is sent meanwhile."""

import functools
import re

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pairs
import pytest

from siglip_jax import losses
from siglip_jax import sharding
from siglip_jax.losses import ring


def rotate(mesh, texts, block):
  """Each device's sum over all texts, and what its own texts collected."""
  devices = ring.num_devices(mesh, pairs.AXES)

  def local(texts):
    own = jnp.float32(2.0) ** jax.lax.axis_index(pairs.AXES)

    def visit(met, texts, payload, valid):
      numbers = texts + 1  # padding would count, too
      if valid is not None:
        numbers = jnp.where(valid, numbers, 0)
      return met + jnp.sum(numbers), payload + own * texts

    met, payload = ring.rotate(
        visit,
        ring.varying(jnp.float32(0), pairs.AXES),
        texts,
        ring.varying(jnp.zeros(texts.shape), pairs.AXES),
        axes=pairs.AXES,
        devices=devices,
        block=block,
    )
    return met[None], payload

  rows = P(pairs.AXES)
  run = jax.shard_map(local, mesh=mesh, in_specs=rows, out_specs=(rows, rows))
  return jax.jit(run)(texts)


@pytest.mark.parametrize("block", [2, 3, 5, None])
def test_every_device_meets_every_text_once(mesh, block):
  texts = jnp.arange(40.0)  # five a device: blocks of 2 and 3 need padding
  met, payload = rotate(mesh, texts, block)
  np.testing.assert_array_equal(met, np.full(8, 40 * 41 / 2))
  # A device adds a text times one bit of its own, and all have met it once.
  np.testing.assert_array_equal(payload, texts * (2.0**8 - 1))


def test_a_ring_is_as_long_as_its_axes(mesh):
  assert ring.num_devices(mesh, ("data", "fsdp")) == 8
  assert ring.num_devices(mesh, ("data",)) == 4
  ring.check(12, mesh, ("data",), block=5)
  with pytest.raises(ValueError, match=r"multiple of 8 \(axes .*\), got 12"):
    ring.check(12, mesh, ("data", "fsdp"))


def test_products_of_bfloat16_add_up_in_float32():
  ones = jnp.ones((1, 1001), jnp.bfloat16)
  got = ring.dot("ND,MD->NM", ones, ones)  # bfloat16 has no 1001
  assert got.dtype == jnp.float32 and got.item() == 1001


@pytest.mark.tpu_compile
def test_what_travels_is_under_way_while_a_block_is_computed(slices):
  mesh = sharding.make_mesh(devices=slices("v4:2x2x1").devices)
  rows, one = NamedSharding(mesh, P(pairs.AXES)), NamedSharding(mesh, P())
  z = jax.ShapeDtypeStruct((32_768, 512), jnp.bfloat16, sharding=rows)
  s = jax.ShapeDtypeStruct((), jnp.float32, sharding=one)
  loss = functools.partial(
      losses.ring_sigmoid_loss, mesh=mesh, axis=pairs.AXES, block=4096
  )
  step = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))
  text = step.lower(z, z, s, s).compile().as_text()
  assert "is_scheduled=true" in text  # so lines are in the order of execution
  body = next(c for c in text.split("\n\n") if c.count("permute-start(") == 2)
  lines = body.splitlines()
  for name in re.findall(r"%(collective-permute-start\S*) =", body):
    start = next(i for i, x in enumerate(lines) if f"%{name} =" in x)
    done = next(i for i, x in enumerate(lines) if f"-done(%{name})" in x)
    between = "\n".join(lines[start:done])
    assert "dot_general" in between and "kind=kOutput" in between
