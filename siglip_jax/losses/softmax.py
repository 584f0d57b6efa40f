"""The contrastive softmax loss of CLIP (arXiv 2103.00020), the baseline."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array
from jaxtyping import Float

from siglip_jax.losses import ring

Scalar = Float[Array, ""]


def softmax_loss(
    zimg: Float[Array, "B D"],
    ztxt: Float[Array, "B D"],
    t_prime: Scalar,
) -> Scalar:
  """Returns the mean of the image-to-text and text-to-image cross-entropies.

  Under jit with sharded rows, XLA gathers all texts to score a device's images,
  and all images to score its texts. The B x B matrix is sharded by rows, once
  for each direction.

  Args:
    zimg: L2-normalised image embeddings.
    ztxt: L2-normalised text embeddings; row i belongs to image i.
    t_prime: log temperature.

  Returns:
    The loss; log B if all logits are equal.
  """
  dtype = jnp.promote_types(jnp.float32, zimg.dtype)
  logits = jnp.exp(t_prime) * jnp.einsum(
      "ND,MD->NM", zimg, ztxt, preferred_element_type=dtype
  )
  img2txt = jnp.diagonal(jax.nn.log_softmax(logits, axis=1))
  txt2img = jnp.diagonal(jax.nn.log_softmax(logits, axis=0))
  return -(jnp.mean(img2txt) + jnp.mean(txt2img)) / 2


def ring_softmax_loss(
    zimg: Float[Array, "B D"],
    ztxt: Float[Array, "B D"],
    t_prime: Scalar,
    *,
    mesh: jax.sharding.Mesh,
    axis: str | Sequence[str],
    block: int | None = None,
    precision: jax.lax.PrecisionLike = None,
) -> Scalar:
  """The loss of `softmax_loss` in two passes around the ring.

  The B x B matrix is never held. A softmax needs its denominators before it has
  a slope. The forward pass sums the denominators as texts visit: an image's
  denominator stays with the image, and a text's travels with the text. The
  backward pass scores all pairs again and sums the gradients.

  Args:
    zimg: L2-normalised image embeddings, rows sharded over `axis`.
    ztxt: L2-normalised text embeddings, rows sharded over `axis`.
    t_prime: log temperature.
    mesh: the device mesh.
    axis: mesh axis or axes that the batch is sharded over, major first.
    block: number of texts scored at a time; by default enough for 2^27 pairs,
      but at least 2048.
    precision: jax.lax.Precision of the matmuls; None is the device's default.

  Returns:
    The loss, equal on all devices.

  Raises:
    ValueError: B is not a multiple of the number of devices along `axis`, or
      `block` is not positive.
  """
  axes = (axis,) if isinstance(axis, str) else tuple(axis)
  ring.check(len(zimg), mesh, axes, block)
  options = dict(
      axes=axes,
      devices=ring.num_devices(mesh, axes),
      block=block,
      precision=precision,
  )
  rows = P(axes)
  forward = jax.shard_map(
      lambda *args: _denominators(*args, **options),
      mesh=mesh,
      in_specs=(rows, rows, P()),
      out_specs=(P(), rows, rows),
  )
  backward = jax.shard_map(
      lambda *args: _gradients(*args, **options),
      mesh=mesh,
      in_specs=(rows, rows, P(), rows, rows),
      out_specs=(rows, rows, P()),
  )

  @jax.custom_vjp
  def loss(zimg, ztxt, t_prime):
    return forward(zimg, ztxt, t_prime)[0]

  def loss_fwd(zimg, ztxt, t_prime):
    value, image_lse, text_lse = forward(zimg, ztxt, t_prime)
    return value, (zimg, ztxt, t_prime, image_lse, text_lse)

  def loss_bwd(residuals, cotangent):
    return jax.tree.map(
        lambda g: (cotangent * g).astype(g.dtype), backward(*residuals)
    )

  loss.defvjp(loss_fwd, loss_bwd)
  return loss(zimg, ztxt, t_prime)


def _denominators(
    zimg: Float[Array, "N D"],
    ztxt: Float[Array, "N D"],
    t_prime: Scalar,
    *,
    axes: Sequence[str],
    devices: int,
    block: int | None,
    precision,
):
  """Returns the loss and the log denominators of this device's rows."""
  scale, batch = jnp.exp(t_prime), len(zimg) * devices
  dtype = jnp.promote_types(jnp.float32, zimg.dtype)

  def visit(image_lse, texts, text_lse, valid):
    x = _logits(scale, texts, zimg, valid, precision)
    return (
        jnp.logaddexp(image_lse, jax.nn.logsumexp(x, axis=0)),
        jnp.logaddexp(text_lse, jax.nn.logsumexp(x, axis=1)),
    )

  empty = ring.varying(jnp.full(len(zimg), -jnp.inf, dtype), axes)
  image_lse, text_lse = ring.rotate(
      visit, empty, ztxt, empty, axes=axes, devices=devices, block=block
  )
  log_denominators = (image_lse + text_lse) / 2
  cosines = jnp.sum(zimg.astype(dtype) * ztxt.astype(dtype), axis=1)
  loss = jnp.sum(log_denominators - scale * cosines)
  return jax.lax.psum(loss, axes) / batch, image_lse, text_lse


def _gradients(
    zimg: Float[Array, "N D"],
    ztxt: Float[Array, "N D"],
    t_prime: Scalar,
    image_lse: Float[Array, " N"],
    text_lse: Float[Array, " N"],
    *,
    axes: Sequence[str],
    devices: int,
    block: int | None,
    precision,
):
  """Returns the three gradients, given the log denominators."""
  scale, batch = jnp.exp(t_prime), len(zimg) * devices
  dtype = jnp.promote_types(jnp.float32, zimg.dtype)

  def visit(d_zimg, block, d_texts, valid):
    texts, text_lse = block
    x = _logits(scale, texts, zimg, valid, precision)
    slope = jnp.exp(x - image_lse[None]) + jnp.exp(x - text_lse[:, None])
    slope = jax.lax.optimization_barrier((slope / 2).astype(texts.dtype))
    return (
        d_zimg + ring.dot("MN,MD->ND", slope, texts, precision),
        d_texts + ring.dot("MN,ND->MD", slope, zimg, precision),
    )

  zeros = ring.varying(jnp.zeros(zimg.shape, dtype), axes)
  d_zimg, d_ztxt = ring.rotate(
      visit,
      zeros,
      (ztxt, text_lse),
      zeros,
      axes=axes,
      devices=devices,
      block=block,
  )
  d_zimg, d_ztxt = d_zimg - ztxt, d_ztxt - zimg
  d_t_prime = jax.lax.psum(jnp.sum(zimg * d_zimg), axes) * scale / batch
  factor = scale / batch
  return (
      (factor * d_zimg).astype(zimg.dtype),
      (factor * d_ztxt).astype(ztxt.dtype),
      d_t_prime.astype(t_prime.dtype),
  )


def _logits(scale, texts, zimg, valid, precision):
  """Returns the logits, texts by images, with -inf in rows of padding."""
  x = scale * ring.dot("MD,ND->MN", texts, zimg, precision)
  return x if valid is None else jnp.where(valid[:, None], x, -jnp.inf)
