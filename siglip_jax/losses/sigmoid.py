"""The pairwise sigmoid loss of SigLIP (Algorithm 1 of arXiv 2303.15343)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array
from jaxtyping import Float

from siglip_jax.losses import ring

Scalar = Float[Array, ""]


def sigmoid_loss(
    zimg: Float[Array, "B D"],
    ztxt: Float[Array, "B D"],
    t_prime: Scalar,
    b: Scalar,
) -> Scalar:
  """Returns the sum of -log sigmoid(label * logit) over all pairs, over B.

  Args:
    zimg: L2-normalised image embeddings.
    ztxt: L2-normalised text embeddings; row i belongs to image i.
    t_prime: log temperature.
    b: bias.

  Returns:
    The loss; near 10 at the paper's initial t' = log 10 and b = -10.
  """
  logits = jnp.exp(t_prime) * ring.dot("ND,MD->NM", zimg, ztxt) + b
  labels = 2 * jnp.eye(len(zimg)) - 1
  return -jnp.sum(jax.nn.log_sigmoid(labels * logits)) / len(zimg)


def bce_mean_loss(
    zimg: Float[Array, "B D"],
    ztxt: Float[Array, "B D"],
    *,
    temperature: float = 0.07,
) -> Scalar:
  """Returns the mean binary cross-entropy over the B^2 pairs.

  This is the variant that the "Paper Shorts" one-page summary of SigLIP
  (2023-10-01) prints; the README says how it differs. It has no bias and a
  fixed temperature, and its normalisation makes it B times smaller than
  `sigmoid_loss`. The negatives drown out the positives from the start.
  """
  logits = ring.dot("ND,MD->NM", zimg, ztxt) / temperature
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
    block: int | None = None,
    precision: jax.lax.PrecisionLike = None,
) -> Scalar:
  """The loss of `sigmoid_loss` in one pass around the ring.

  The B x B matrix is never held. Each of the n devices along `axis` keeps its
  images while the texts visit (section 3.3). The derivative of -log sigmoid(-x)
  is sigmoid(x), which is known as soon as the logit is. So each visit also adds
  to all gradients, and the gradient of a text travels with the text. Nothing is
  recomputed, and the largest temporary is (block x B / n).

  Args:
    zimg: L2-normalised image embeddings, rows sharded over `axis`.
    ztxt: L2-normalised text embeddings, rows sharded over `axis`.
    t_prime: log temperature.
    b: bias.
    mesh: the device mesh.
    axis: mesh axis or axes that the batch is sharded over, major first.
    block: number of texts scored at a time; by default enough for 2^27 pairs,
      but at least 2048.
    precision: jax.lax.Precision of the matmuls; None is the device's default,
      which on TPUs rounds float32 embeddings to bfloat16.

  Returns:
    The loss, equal on all devices.

  Raises:
    ValueError: B is not a multiple of the number of devices along `axis`, or
      `block` is not positive.
  """
  axes = (axis,) if isinstance(axis, str) else tuple(axis)
  ring.check(len(zimg), mesh, axes, block)

  def single_pass(zimg, ztxt, t_prime, b):
    """Returns the loss and its four gradients."""
    local = jax.shard_map(
        lambda *args: _single_pass(
            *args,
            axes=axes,
            devices=ring.num_devices(mesh, axes),
            block=block,
            precision=precision,
        ),
        mesh=mesh,
        in_specs=(P(axes), P(axes), P(), P()),
        out_specs=(P(), (P(axes), P(axes), P(), P())),
    )
    return local(zimg, ztxt, t_prime, b)

  @jax.custom_vjp
  def loss(zimg, ztxt, t_prime, b):
    return single_pass(zimg, ztxt, t_prime, b)[0]

  def backward(gradients, cotangent):
    return jax.tree.map(lambda g: (cotangent * g).astype(g.dtype), gradients)

  loss.defvjp(single_pass, backward)
  return loss(zimg, ztxt, t_prime, b)


def _single_pass(
    zimg: Float[Array, "N D"],
    ztxt: Float[Array, "N D"],
    t_prime: Scalar,
    b: Scalar,
    *,
    axes: Sequence[str],
    devices: int,
    block: int | None,
    precision,
):
  """Computes one device's part of `ring_sigmoid_loss`."""
  scale, batch = jnp.exp(t_prime), len(zimg) * devices
  dtype = jnp.promote_types(jnp.float32, zimg.dtype)

  def visit(local, texts, d_texts, valid):
    total, d_b, d_zimg = local
    # Texts are rows: XLA tiles all three matmuls better in this orientation.
    x = scale * ring.dot("MD,ND->MN", texts, zimg, precision) + b
    if valid is not None:
      x = jnp.where(valid[:, None], x, -jnp.inf)
    # Every pair counts as a negative here, with loss softplus(x) and slope
    # sigmoid(x); positives are corrected below.
    e = jnp.exp(-jnp.abs(x))
    slope = jnp.where(x >= 0, 1, e) / (1 + e)
    total += jnp.sum(jnp.maximum(x, 0) + jnp.log1p(e))
    d_b += jnp.sum(slope)
    # The barrier makes XLA keep the slopes, in the embeddings' dtype, between
    # the matmuls, instead of the float32 logits.
    slope = jax.lax.optimization_barrier(slope.astype(texts.dtype))
    d_zimg += ring.dot("MN,MD->ND", slope, texts, precision)
    return (total, d_b, d_zimg), d_texts + ring.dot(
        "MN,ND->MD", slope, zimg, precision
    )

  zeros = jnp.zeros(zimg.shape, dtype)
  zero = jnp.zeros((), dtype)
  (total, d_b, d_zimg), d_ztxt = ring.rotate(
      visit,
      ring.varying((zero, zero, zeros), axes),
      ztxt,
      ring.varying(zeros, axes),
      axes=axes,
      devices=devices,
      block=block,
  )
  # Counted as a positive, a pair's loss differs by softplus(-x) - softplus(x) =
  # -x and its slope by -1. The slope in t' is the slope in x times (x - b).
  zimg_, ztxt_ = zimg.astype(dtype), ztxt.astype(dtype)
  cosines = jnp.sum(zimg_ * ztxt_, axis=1)
  total -= jnp.sum(scale * cosines + b)
  d_b -= len(zimg)
  d_zimg, d_ztxt = d_zimg - ztxt_, d_ztxt - zimg_
  d_t_prime = scale * jnp.sum(zimg_ * d_zimg)
  total, d_t_prime, d_b = jax.lax.psum((total, d_t_prime, d_b), axes)
  factor = scale / batch
  gradients = (
      (factor * d_zimg).astype(zimg.dtype),
      (factor * d_ztxt).astype(ztxt.dtype),
      (d_t_prime / batch).astype(t_prime.dtype),
      (d_b / batch).astype(b.dtype),
  )
  return total / batch, gradients
