"""The fused attention kernels against the einsums, and compiled for TPUs."""

import functools
import re

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from siglip_jax import sharding
from siglip_jax.errors import UserError
from siglip_jax.models import attention as lib
from siglip_jax.models import dense
from siglip_jax.models import layers
from siglip_jax.models.attention import blocks as blocks


def einsums(qkv, *, num_heads):
  """As in `layers`; queries come scaled, and in base 2."""
  b, length, width = qkv.shape
  q, k, v = (
      x.reshape(b, length, num_heads, width // 3 // num_heads)
      for x in jnp.split(qkv, 3, axis=-1)
  )
  logits = np.log(2) * jnp.einsum(
      "BQNH,BKNH->BNQK", q, k, preferred_element_type=jnp.float32
  )
  weights = nn.softmax(logits).astype(q.dtype)
  return jnp.einsum("BNQK,BKNH->BQNH", weights, v).reshape(b, length, -1)


def values_and_gradients(fn, qkv, d_out):
  @jax.jit
  def run(qkv):
    out, vjp = jax.vjp(fn, qkv)
    return out, *vjp(d_out)

  return jax.device_get(run(qkv))


def inputs(batch, length, heads, head_dim, dtype):
  width = heads * head_dim
  rng = np.random.default_rng(0)
  qkv = 1.5 * rng.normal(size=(batch, length, 3 * width))
  qkv[..., :width] /= np.log(2) * head_dim**0.5
  d_out = rng.normal(size=(batch, length, width))
  return jnp.asarray(qkv, dtype), jnp.asarray(d_out, dtype)


@pytest.mark.parametrize(
    "batch, length, heads, head_dim",
    [
        (2, 50, 4, 64),  # two heads share a register
        (1, 197, 2, 64),
        (2, 24, 3, 64),  # an odd head is alone in half a register
        (2, 33, 4, 32),
        (1, 40, 3, 72),  # heads across two registers
        (1, 40, 16, 88),
        (2, 24, 1, 128),
        (1, 264, 2, 72),  # two chunks of queries
        (1, 264, 4, 64),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_equals_the_einsums(batch, length, heads, head_dim, dtype):
  fused = functools.partial(
      lib.fused_attention, num_heads=heads, interpret=True
  )
  check_against_einsums(fused, batch, length, heads, head_dim, dtype)


@pytest.mark.parametrize(
    "batch, length, heads, head_dim, dtype",
    [
        (1, 40, 16, 72, "float32"),
        (1, 24, 16, 120, "float32"),  # nearly every head across two registers
        (2, 24, 5, 80, "float32"),  # a last register filled in part
        (1, 264, 4, 88, "float32"),  # two chunks of queries
        (1, 264, 4, 88, "bfloat16"),
        (1, 729, 2, 72, "bfloat16"),
        (1, 1024, 1, 128, "bfloat16"),
    ],
)
def test_a_head_at_a_time_equals_the_einsums(
    monkeypatch, batch, length, heads, head_dim, dtype
):
  found = blocks.Blocks(size=1, lanes=128, buffers=2, pack=1, by_head=True)
  monkeypatch.setattr(blocks, "choose", lambda *args, **options: found)
  fused = functools.partial(
      lib.fused_attention, num_heads=heads, interpret=True
  )
  check_against_einsums(fused, batch, length, heads, head_dim, dtype)


def check_against_einsums(fused, batch, length, heads, head_dim, dtype):
  """Values and gradients."""
  args = inputs(batch, length, heads, head_dim, dtype)
  reference = functools.partial(einsums, num_heads=heads)
  found = values_and_gradients(fused, *args)
  exact = values_and_gradients(
      reference, *(x.astype(jnp.float32) for x in args)
  )
  rounded = values_and_gradients(reference, *args)
  for a, b, r in zip(found, exact, rounded, strict=True):
    assert a.dtype == dtype
    if dtype == "float32":
      np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-5)
    else:  # As near to the exact result as the einsums in bfloat16.
      error, allowed = (np.abs(np.float32(x) - b) for x in (a, r))
      assert error.max() < 2 * allowed.max()
      assert error.mean() < 1.2 * allowed.mean()


@pytest.mark.parametrize("length, head_dim", [(729, 72), (1024, 32)])
def test_long_rows_equal_the_einsums(length, head_dim):
  fused = functools.partial(lib.fused_attention, num_heads=2, interpret=True)
  check_against_einsums(fused, 1, length, 2, head_dim, "float32")


@pytest.mark.parametrize("length, pack", [(16, 8), (64, 2), (48, 2), (8, 1)])
def test_short_sequences_share_a_map(length, pack):
  assert blocks.packed(16, length, "bfloat16") == pack
  qkv, d_out = inputs(16, length, 2, 64, "bfloat16")
  fused = functools.partial(lib.fused_attention, num_heads=2, interpret=True)
  found = values_and_gradients(fused, qkv, d_out)
  alone = [
      values_and_gradients(fused, qkv[i : i + 1], d_out[i : i + 1])
      for i in (0, 5, 15)
  ]
  for together, one in zip(found, zip(*alone, strict=True), strict=True):
    np.testing.assert_allclose(
        np.float32(together[[0, 5, 15]]),
        np.float32(np.concatenate(one)),
        atol=1e-2,
        rtol=1e-2,
    )


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


def test_parameters_are_those_of_dense_general():
  x = jnp.ones((2, 5, 24))
  for features, heads_in, axis in [((4, 6), (), -1), ((24,), (4, 6), (-2, -1))]:
    ours = dense.HeadsDense(features, heads_in)
    theirs = nn.DenseGeneral(
        features if len(features) > 1 else features[0],
        axis=axis,
        kernel_init=nn.initializers.xavier_uniform(),
    )
    y = x.reshape(2, 5, *heads_in) if heads_in else x
    a, b = ours.init(jax.random.key(1), x), theirs.init(jax.random.key(1), y)
    jax.tree.map(np.testing.assert_array_equal, a, b)
    np.testing.assert_allclose(
        ours.apply(a, x), theirs.apply(b, y).reshape(2, 5, -1), rtol=1e-6
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


@pytest.mark.parametrize("length", [196, 256, 576, 729, 1024])
@pytest.mark.parametrize("head_dim", [32, 64, 72, 80, 88, 128])
def test_any_head_size_finds_blocks_at_any_length(length, head_dim):
  for heads in (3, 16):
    for vmem in (16, 64, 128):
      for backward in (False, True):
        found = blocks.choose(
            (6, length, heads * head_dim),
            "bfloat16",
            heads,
            vmem,
            backward=backward,
        )
        assert (
            6 % found.size == 0
            and heads * head_dim % found.lanes == 0
            or (found.by_head)
        )
        rows_fit = vmem > 64 or head_dim % 32 == 0
        assert not (found.by_head and rows_fit)


def test_long_rows_of_odd_heads_go_a_head_at_a_time():
  so400m = ((8, 729, 1152), "bfloat16", 16)
  assert blocks.choose(*so400m, 16, backward=True).by_head
  assert not blocks.choose(*so400m, 64, backward=True).by_head
  with pytest.raises(UserError, match="heads of 144 needs"):
    blocks.choose((8, 1024, 1296), "bfloat16", 9, 16, backward=True)


def test_cost_counts_padding():
  moved, flops = blocks.cost(2, 196, 12, 64, jnp.bfloat16, backward=False)
  assert moved == 2 * 4 * 200 * 768 * 2
  assert flops == 2 * 12 * 2 * (2 * 200 * 128 * 256)
  moved, flops = blocks.cost(2, 196, 12, 64, jnp.bfloat16, backward=True)
  assert moved == 2 * 7 * 200 * 768 * 2
  assert flops == 2 * 12 * 2 * (5 * 200 * 128 * 256)
  # Eight captions of 16 tokens to a map; heads of 72 across two registers.
  assert (
      blocks.cost(8, 16, 2, 64, jnp.bfloat16, backward=False)[1] == 8 * 128**3
  )
  narrow, wide = (
      blocks.cost(1, 128, n, 72, jnp.bfloat16, backward=False)[1]
      for n in (1, 2)
  )
  assert wide == 3 * narrow
  moved, flops = blocks.cost(
      1, 128, 16, 72, jnp.bfloat16, backward=True, by_head=True
  )
  assert moved == (2 * 4 + 3) * 128 * 1152 * 2
  assert flops == (8 + 2 * 8) * 5 * 2 * 128**3  # half the heads lie across two


def tpu_mesh(slices, name, **axes):
  return sharding.make_mesh(devices=slices(name).devices, **axes)


@pytest.mark.tpu_compile
@pytest.mark.parametrize("topology", ["v4:2x2x1", "v6e:2x2"])
def test_compiles_for_tpus_moving_no_activation(slices, topology):
  mesh = tpu_mesh(slices, topology, data=2, fsdp=2)
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


@pytest.mark.tpu_compile
@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1"])
@pytest.mark.parametrize("length, head_dim", [(24, 72), (16, 32), (272, 128)])
def test_odd_shapes_compile(slices, topology, length, head_dim):
  mesh = tpu_mesh(slices, topology)
  x = jax.ShapeDtypeStruct(
      (8, length, 6 * head_dim),
      jnp.bfloat16,
      sharding=NamedSharding(mesh, P(sharding.BATCH_AXES)),
  )

  def run(qkv):
    attention = functools.partial(lib.fused_attention, num_heads=2)
    out, vjp = jax.vjp(attention, qkv)
    return vjp(out)

  jax.jit(sharding.on_mesh(mesh, run)).lower(x).compile()


@pytest.mark.tpu_compile
@pytest.mark.parametrize("length, head_dim", [(729, 72), (1024, 88)])
def test_long_rows_of_odd_heads_compile(slices, length, head_dim):
  mesh = tpu_mesh(slices, "v4:2x2x1")
  x = jax.ShapeDtypeStruct(
      (8, length, 3 * 16 * head_dim),
      jnp.bfloat16,
      sharding=NamedSharding(mesh, P(sharding.BATCH_AXES)),
  )

  def run(qkv):
    assert lib.is_chosen("auto", qkv[..., : 16 * head_dim], 16)
    attention = functools.partial(lib.fused_attention, num_heads=16)
    out, vjp = jax.vjp(attention, qkv)
    return vjp(out)

  jax.jit(sharding.on_mesh(mesh, run)).lower(x).compile()
