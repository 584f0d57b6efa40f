"""Losses against golden values, the reference, and each other."""

import functools
import re

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from siglip_jax import losses
from siglip_jax import sharding
from siglip_jax.errors import UserError

GOLDEN = np.load("tests/fixtures/loss_golden.npz")
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


AXES = ("data", "fsdp")


def random_pairs(mesh, rows, width=16, dtype=jnp.float32):
  """Normalised embeddings on the mesh, with t' and b of unsure pairs."""
  keys = jax.random.split(jax.random.key(1), 2)
  z = [jax.random.normal(k, (rows, width)) for k in keys]
  z = [x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in z]
  z = [x.astype(dtype) for x in z]
  zimg, ztxt = jax.device_put(z, NamedSharding(mesh, P(AXES)))
  return zimg, ztxt, jnp.log(7.0), jnp.float32(-1.5)


def assert_equal(loss, reference, args, rtol):
  """Value and all gradients; gradients relative to their largest entry."""
  numbers = tuple(range(len(args)))
  value, grads = jax.jit(jax.value_and_grad(loss, numbers))(*args)
  wanted, wanted_grads = jax.jit(jax.value_and_grad(reference, numbers))(*args)
  np.testing.assert_allclose(value, wanted, rtol=rtol)
  for got, want in zip(grads, wanted_grads, strict=True):
    assert got.dtype == want.dtype
    got, want = np.float32(got), np.float32(want)
    np.testing.assert_allclose(
        got, want, rtol=rtol, atol=rtol * np.abs(want).max()
    )


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


@pytest.mark.parametrize("block", [3, 5, None])
def test_rings_over_two_axes_equal_the_references(mesh, block):
  args = random_pairs(mesh, 40)
  options = dict(mesh=mesh, axis=AXES, block=block)
  assert_equal(
      lambda *a: losses.ring_sigmoid_loss(*a, **options),
      losses.sigmoid_loss,
      args,
      rtol=1e-6,
  )
  assert_equal(
      lambda *a: losses.ring_softmax_loss(*a, **options),
      losses.softmax_loss,
      args[:3],
      rtol=1e-6,
  )


def test_rings_keep_bfloat16_embeddings_to_their_rounding(mesh):
  args = random_pairs(mesh, 64, dtype=jnp.bfloat16)
  exact = [x.astype(jnp.float32) for x in args]
  options = dict(mesh=mesh, axis=AXES, block=3)
  for loss, reference, n in (
      (losses.ring_sigmoid_loss, losses.sigmoid_loss, 4),
      (losses.ring_softmax_loss, losses.softmax_loss, 3),
  ):
    ring = functools.partial(loss, **options)
    ring = jax.jit(jax.value_and_grad(ring, range(n)))
    value, grads = ring(*args[:n])
    wanted, wanted_grads = jax.value_and_grad(reference, range(n))(*exact[:n])
    np.testing.assert_allclose(value, wanted, rtol=1e-6)  # float32 sums
    dtypes = [x.dtype for x in grads]
    assert dtypes == 2 * [jnp.bfloat16] + (n - 2) * [jnp.float32]
    for got, want in zip(grads, wanted_grads, strict=True):
      error = np.linalg.norm(np.float32(got) - want) / np.linalg.norm(want)
      assert error < 2**-8  # half a unit in the last place, slope and result


def test_a_scaled_ring_loss_has_scaled_gradients(mesh):
  args = random_pairs(mesh, 16)
  ring = lambda *a: losses.ring_sigmoid_loss(*a, mesh=mesh, axis=AXES)
  one = jax.grad(ring, (0, 1, 2, 3))(*args)
  three = jax.grad(lambda *a: 3 * ring(*a), (0, 1, 2, 3))(*args)
  for a, b in zip(one, three, strict=True):
    np.testing.assert_allclose(3 * a, b, rtol=1e-6)


def test_sure_and_far_pairs_stay_finite_and_exact(mesh):
  zimg, ztxt, _, _ = random_pairs(mesh, 16)
  args = (zimg, zimg, jnp.log(300.0), jnp.float32(-90.0))  # x from -390 to 210
  assert_equal(
      lambda *a: losses.ring_sigmoid_loss(*a, mesh=mesh, axis=AXES, block=2),
      losses.sigmoid_loss,
      args,
      rtol=2e-5,
  )
  assert_equal(
      lambda *a: losses.ring_softmax_loss(*a, mesh=mesh, axis=AXES, block=2),
      losses.softmax_loss,
      (zimg, ztxt, jnp.log(300.0)),
      rtol=2e-5,
  )


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
  args = random_pairs(mesh, 24)
  key = jax.random.key(3)

  def masked(*a, ratio=0.3):
    return losses.masked_sigmoid_loss(
        *a, key, keep=keep, ratio=ratio, mesh=mesh, axis=AXES, block=2
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
  args = random_pairs(mesh, 24)
  hard, some, easy = (
      float(
          losses.masked_sigmoid_loss(
              *args,
              jax.random.key(0),
              keep=keep,
              ratio=0.5,
              mesh=mesh,
              axis=AXES,
          )
      )
      for keep in ("hardest", "random", "easiest")
  )
  assert easy < some < hard


def test_make_refuses_what_a_loss_does_not_have(mesh):
  def wrong(match, **section):
    with pytest.raises(UserError, match=match):
      losses.make(mesh, AXES, **section)

  wrong("must be one of", name="ring")
  wrong("did you mean 'block'", name="ring_sigmoid", blok=3)
  wrong("float32 or bfloat16; got 'fp8'", name="ring_sigmoid", dtype="fp8")
  wrong("keep is missing", name="masked_sigmoid", ratio=0.5)
  wrong("got 'worst'", name="masked_sigmoid", ratio=0.5, keep="worst")
  wrong(r"in \[0, 1\]; got 2", name="masked_sigmoid", ratio=2, keep="random")
  loss = losses.make(mesh, AXES, name="ring_sigmoid")
  zimg, ztxt, t_prime, _ = random_pairs(mesh, 8)
  with pytest.raises(UserError, match=r"learns \['b'\]"):
    loss(zimg, ztxt, {"t": t_prime[None]}, jax.random.key(0))


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
  z = jnp.ones((16, 4))
  with pytest.raises(ValueError, match="positive number of texts; got 0"):
    losses.ring_softmax_loss(
        z, z, jnp.float32(0), mesh=mesh, axis=AXES, block=0
    )


@pytest.mark.tpu_compile
def test_what_travels_is_under_way_while_a_block_is_computed(slices):
  mesh = sharding.make_mesh(devices=slices("v4:2x2x1").devices)
  rows, one = NamedSharding(mesh, P(AXES)), NamedSharding(mesh, P())
  z = jax.ShapeDtypeStruct((32_768, 512), jnp.bfloat16, sharding=rows)
  s = jax.ShapeDtypeStruct((), jnp.float32, sharding=one)
  ring = functools.partial(
      losses.ring_sigmoid_loss, mesh=mesh, axis=AXES, block=4096
  )
  step = jax.jit(jax.value_and_grad(ring, (0, 1, 2, 3)))
  text = step.lower(z, z, s, s).compile().as_text()
  assert "is_scheduled=true" in text  # so lines are in the order of execution
  body = next(c for c in text.split("\n\n") if c.count("permute-start(") == 2)
  lines = body.splitlines()
  for name in re.findall(r"%(collective-permute-start\S*) =", body):
    start = next(i for i, x in enumerate(lines) if f"%{name} =" in x)
    done = next(i for i, x in enumerate(lines) if f"-done(%{name})" in x)
    between = "\n".join(lines[start:done])
    assert "dot_general" in between and "kind=kOutput" in between
