"""Pairs of embeddings, and losses compared by value and gradients."""

from collections.abc import Callable
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

GOLDEN = np.load("tests/fixtures/loss_golden.npz")
AXES = ("data", "fsdp")


def golden() -> tuple[jax.Array, jax.Array]:
  """The embeddings of the golden values."""
  return jnp.float32(GOLDEN["zimg"]), jnp.float32(GOLDEN["ztxt"])


def check_golden(name: str, loss: Callable, *args, rtol: float = 1e-5):
  """Value and all gradients against the golden ones of that name."""
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


def random(mesh: jax.sharding.Mesh, rows: int, width=16, dtype=jnp.float32):
  """Normalised embeddings on the mesh, with t' and b of unsure pairs."""
  keys = jax.random.split(jax.random.key(1), 2)
  z = [jax.random.normal(k, (rows, width)) for k in keys]
  z = [x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in z]
  z = [x.astype(dtype) for x in z]
  zimg, ztxt = jax.device_put(z, NamedSharding(mesh, P(AXES)))
  return zimg, ztxt, jnp.log(7.0), jnp.float32(-1.5)


def check_equal(loss: Callable, reference: Callable, args: Sequence, rtol):
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


def check_bfloat16(loss: Callable, reference: Callable, args: Sequence):
  """A loss of bfloat16 embeddings: float32 sums, gradients rounded once."""
  numbers = range(len(args))
  exact = [x.astype(jnp.float32) for x in args]
  value, grads = jax.jit(jax.value_and_grad(loss, numbers))(*args)
  wanted, wanted_grads = jax.value_and_grad(reference, numbers)(*exact)
  np.testing.assert_allclose(value, wanted, rtol=1e-6)  # float32 sums
  dtypes = [x.dtype for x in grads]
  assert dtypes == 2 * [jnp.bfloat16] + (len(args) - 2) * [jnp.float32]
  for got, want in zip(grads, wanted_grads, strict=True):
    error = np.linalg.norm(np.float32(got) - want) / np.linalg.norm(want)
    assert error < 2**-8  # half a unit in the last place, slope and result
