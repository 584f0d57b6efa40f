"""Fused attention: where it is chosen, and how a mesh splits it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siglip_jax import sharding
from siglip_jax.errors import UserError
from siglip_jax.models import attention as lib
from siglip_jax.models import layers


def encoder(attention, **options):
  return layers.Encoder(
      depth=2, mlp_dim=64, num_heads=4, attention=attention, **options
  )


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 2, 2)])
def test_scanned_and_rematerialised_on_eight_devices(axes):
  mesh = sharding.make_mesh(**dict(zip(sharding.AXES, axes, strict=True)))
  x = jnp.asarray(
      np.random.default_rng(0).normal(size=(8, 20, 128)), jnp.float32
  )
  fused = encoder("fused", scan=True, remat="full")
  reference = encoder("xla", scan=True)
  params = reference.init(jax.random.key(0), x[:1])
  rules = [
      (".*/(query|key|value)/kernel", ("fsdp", "tensor", None)),
      (".*", "fsdp"),
  ]
  placed = sharding.param_shardings(mesh, rules, params)

  def loss(model):
    return jax.value_and_grad(
        lambda p, x: jnp.sum(model.apply(p, x)[:, :3] ** 3), argnums=(0, 1)
    )

  got = jax.jit(
      sharding.on_mesh(mesh, loss(fused)),
      in_shardings=(placed, sharding.batch_sharding(mesh)),
  )(params, x)
  wanted = jax.jit(loss(reference))(params, x)
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4),
      *jax.device_get((got, wanted)),
  )


def test_auto_is_xla_off_tpu_and_unknown_names_are_refused():
  x = jnp.ones((1, 16, 128))
  assert not lib.is_chosen("auto", x, 2)
  assert lib.is_chosen("fused", x, 2)
  with pytest.raises(UserError, match="auto, xla or fused; got 'flash'"):
    lib.check("flash")


def test_what_does_not_fit_is_said():
  qkv = jnp.ones((1, 4096, 3 * 1152), jnp.bfloat16)
  with pytest.raises(UserError, match="4096 tokens of width 1152 .*xla"):
    lib.fused_attention(qkv, num_heads=16, interpret=True)


def test_joined_projections_are_scaled_and_cut_for_the_devices_of_a_mesh():
  q, k, v = jnp.arange(8.0), jnp.arange(8.0) + 10, jnp.arange(8.0) + 20
  scaled = q / (np.sqrt(2) * np.log(2))  # four heads of two; base 2
  np.testing.assert_allclose(
      lib.join(q, k, v, 4), np.concatenate([scaled, k, v]), rtol=1e-6
  )
  mesh = sharding.make_mesh(data=4, tensor=2)
  got = sharding.on_mesh(mesh, lambda *x: lib.join(*x, 4))(q, k, v)
  halves = [x[i : i + 4] for i in (0, 4) for x in (scaled, k, v)]
  np.testing.assert_allclose(got, np.concatenate(halves), rtol=1e-6)
  # One head cannot be split: every device holds it whole.
  got = sharding.on_mesh(mesh, lambda *x: lib.join(*x, 1))(q, k, v)
  np.testing.assert_array_equal(got[8:], np.concatenate([k, v]))


@pytest.mark.tpu_compile
@pytest.mark.parametrize("topology", ["v4:2x2x1", "v6e:2x2"])
def test_compiles_for_tpus_moving_no_activation(slices, topology):
  mesh = sharding.make_mesh(devices=slices(topology).devices, data=2, fsdp=2)
  model = layers.Encoder(
      depth=2,
      mlp_dim=512,
      num_heads=4,
      scan=True,
      remat="full",
      dtype=jnp.bfloat16,
  )
  x = jax.ShapeDtypeStruct(
      (32, 50, 256), jnp.bfloat16, sharding=sharding.batch_sharding(mesh)
  )
  params = jax.eval_shape(
      lambda key: model.init(key, jnp.zeros((1, 50, 256))), jax.random.key(0)
  )
  params = jax.tree.map(
      lambda p, s: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=s),
      params,
      sharding.param_shardings(mesh, [(".*", "fsdp")], params),
  )

  def loss(params, x):
    return jnp.mean(model.apply(params, x).astype(jnp.float32) ** 2)

  step = jax.jit(sharding.on_mesh(mesh, jax.value_and_grad(loss)))
  text = step.lower(params, x).compile().as_text()
  kernels = re.findall(r"%(attention_\w+?)(?:\.\d+)? = .*custom-call\(", text)
  assert sorted(kernels) == ["attention_backward"] + 2 * ["attention_forward"]
  body = text[: text.index("ENTRY ")]
  for op in ("copy", "transpose", "all-gather", "all-to-all"):
    assert not re.search(rf"= bf16\[8,50,\d+\]\S* {op}(-start)?\(", body), op
    assert not re.search(rf"= bf16\[32,50,\d+\]\S* {op}(-start)?\(", text), op
