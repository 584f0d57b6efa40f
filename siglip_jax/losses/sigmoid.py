"""The pairwise sigmoid loss of SigLIP (Algorithm 1 of arXiv 2303.15343)."""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array
from jaxtyping import Float

Scalar = Float[Array, ""]


def sigmoid_loss(
    zimg: Float[Array, "B D"],
    ztxt: Float[Array, "B D"],
    t_prime: Scalar,
    b: Scalar,
) -> Scalar:
  """Sum over all pairs of -log sigmoid(label * logit), divided by B.

  Args:
    zimg: L2-normalised image embeddings.
    ztxt: L2-normalised text embeddings; row i belongs to image i.
    t_prime: log temperature.
    b: bias.

  Returns:
    The loss; near 10 at the paper's initial t' = log 10 and b = -10.
  """
  logits = jnp.exp(t_prime) * _dot(zimg, ztxt) + b
  labels = 2 * jnp.eye(len(zimg)) - 1
  return -jnp.sum(jax.nn.log_sigmoid(labels * logits)) / len(zimg)


def bce_mean_loss(
    zimg: Float[Array, "B D"],
    ztxt: Float[Array, "B D"],
    *,
    temperature: float = 0.07,
) -> Scalar:
  """Mean binary cross-entropy over the B^2 pairs at a fixed temperature.

  A widely copied variant: no bias, a fixed temperature, and B times smaller
  than `sigmoid_loss`. With it, negatives drown the positives from the start.
  """
  logits = _dot(zimg, ztxt) / temperature
  labels = 2 * jnp.eye(len(zimg)) - 1
  return -jnp.mean(jax.nn.log_sigmoid(labels * logits))


def ring_sigmoid_loss(
    zimg: Float[Array, "B D"],
    ztxt: Float[Array, "B D"],
    t_prime: Scalar,
    b: Scalar,
    *,
    mesh: jax.sharding.Mesh,
    axis: str | Sequence[str],
    block: int = 1024,
) -> Scalar:
  """`sigmoid_loss` without the B x B matrix: text chunks go round the ring.

  Each of the n devices along `axis` keeps its images, scores them against the
  text chunk it holds, and passes the chunk on, n times (section 3.3). Backward
  recomputes the logits, so the largest temporary is (block x B / n).

  Args:
    zimg: L2-normalised image embeddings, rows sharded over `axis`.
    ztxt: L2-normalised text embeddings, rows sharded over `axis`.
    t_prime: log temperature.
    b: bias.
    mesh: the device mesh.
    axis: mesh axis or axes the batch is sharded over, major first.
    block: image rows scored at a time; need not divide the local batch.

  Returns:
    The loss, equal on all devices.

  Raises:
    ValueError: B is not a multiple of the number of devices along `axis`.
  """
  axes = (axis,) if isinstance(axis, str) else tuple(axis)
  n = _axis_size(mesh, axes)
  if len(zimg) % n:
    raise ValueError(
        "The batch must divide over the mesh: expected a multiple of"
        f" {n} (axes {axes}), got {len(zimg)}. Change batch_size or the mesh."
    )
  batch = len(zimg)

  @functools.partial(
      jax.shard_map,
      mesh=mesh,
      in_specs=(P(axes), P(axes), P(), P()),
      out_specs=P(),
  )
  def ring(zimg, ztxt, t_prime, b):
    right = [(i, (i + 1) % n) for i in range(n)]

    @jax.checkpoint
    def chunk_loss(ztxt):
      return sum(
          _negatives(zimg[i : i + block], ztxt, t_prime, b)
          for i in range(0, len(zimg), block)
      )

    def hop(carry, _):
      total, ztxt = carry
      passed_on = jax.lax.ppermute(ztxt, axes, right)
      return (total + chunk_loss(ztxt), passed_on), None

    # Every pair counts as a negative on the way; a positive's loss differs:
    # softplus(-x) - softplus(x) = -x.
    positives = jnp.sum(
        jnp.exp(t_prime) * jnp.sum(_f32(zimg) * _f32(ztxt), axis=1) + b
    )
    zero = jax.lax.pcast(jnp.float32(0), axes, to="varying")
    (total, _), _ = jax.lax.scan(hop, (zero, ztxt), length=n)
    return jax.lax.psum(total - positives, axes) / batch

  return ring(zimg, ztxt, t_prime, b)


def _negatives(zimg, ztxt, t_prime, b) -> Scalar:
  """Loss of a block in which no text belongs to any image."""
  return jnp.sum(jax.nn.softplus(jnp.exp(t_prime) * _dot(zimg, ztxt) + b))


def _dot(x: Float[Array, "N D"], y: Float[Array, "M D"]) -> Float[Array, "N M"]:
  """All inner products, accumulated in float32 or wider."""
  dtype = jnp.promote_types(jnp.float32, x.dtype)
  return jnp.einsum("ND,MD->NM", x, y, preferred_element_type=dtype)


def _f32(x: Array) -> Array:
  return x.astype(jnp.promote_types(jnp.float32, x.dtype))


def _axis_size(mesh: jax.sharding.Mesh, axes: Sequence[str]) -> int:
  n = 1
  for a in axes:
    n *= mesh.shape[a]
  return n
