"""The sigmoid loss over a share of the negatives, an ablation of the paper."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array
from jaxtyping import Float

from siglip_jax.errors import UserError
from siglip_jax.losses import ring

Scalar = Float[Array, ""]
KEEP = ("random", "hardest", "easiest")


def masked_sigmoid_loss(
    zimg: Float[Array, "B D"],
    ztxt: Float[Array, "B D"],
    t_prime: Scalar,
    b: Scalar,
    key: Array,
    *,
    keep: str,
    ratio: float,
    mesh: jax.sharding.Mesh,
    axis: str | Sequence[str],
    block: int = 1024,
) -> Scalar:
  """The loss of `sigmoid_loss`, with only a share of each image's negatives.

  Each device gathers all texts and ranks the B - 1 negatives of each of its
  images by their logits, without a gradient. It ranks `block` images at a time,
  so the largest temporary is (block x B).

  Args:
    zimg: L2-normalised image embeddings, rows sharded over `axis`.
    ztxt: L2-normalised text embeddings, rows sharded over `axis`.
    t_prime: log temperature.
    b: bias.
    key: random key for keep="random".
    keep: "random", "hardest" (highest logits) or "easiest".
    ratio: share of negatives to keep: round(ratio (B - 1)) per image.
    mesh: the device mesh.
    axis: mesh axis or axes that the batch is sharded over, major first.
    block: number of images ranked at a time.

  Returns:
    The loss, equal to that of `sigmoid_loss` at ratio 1.

  Raises:
    UserError: `keep` is unknown, or `ratio` is outside [0, 1].
    ValueError: B is not a multiple of the number of devices along `axis`.
  """
  check_options(keep=keep, ratio=ratio)
  axes = (axis,) if isinstance(axis, str) else tuple(axis)
  ring.check(len(zimg), mesh, axes)
  batch, kept = len(zimg), round(ratio * (len(zimg) - 1))

  def local(zimg, ztxt, t_prime, b, key):
    texts = jax.lax.all_gather(ztxt, axes, tiled=True)
    first = jax.lax.axis_index(axes) * len(zimg)

    @jax.checkpoint
    def image_loss(z, row):
      x = jnp.exp(t_prime) * jnp.einsum("MD,D->M", texts, z) + b
      own = jnp.arange(batch) == row
      chosen = _selected(x, own, jax.random.fold_in(key, row), keep, kept)
      losses = jax.nn.softplus(jnp.where(own, -x, x))
      return jnp.sum(jnp.where(chosen | own, losses, 0.0))

    rows = first + jnp.arange(len(zimg))
    losses = jax.lax.map(
        lambda args: image_loss(*args),
        (zimg, rows),
        batch_size=min(block, len(zimg)),
    )
    return jax.lax.psum(jnp.sum(losses), axes) / batch

  return jax.shard_map(
      local,
      mesh=mesh,
      in_specs=(P(axes), P(axes), P(), P(), P()),
      out_specs=P(),
  )(zimg, ztxt, t_prime, b, key)


def check_options(*, keep: str, ratio: float, **_) -> None:
  """Raises UserError for options that `masked_sigmoid_loss` rejects."""
  if keep not in KEEP:
    raise UserError(f"keep must be one of {', '.join(KEEP)}; got {keep!r}.")
  if not 0 <= ratio <= 1:
    raise UserError(f"ratio, a share, must be in [0, 1]; got {ratio}.")


def _selected(x, own, key, keep: str, kept: int):
  """Returns a mask of one image's `kept` negatives; the first win ties."""
  if keep == "random":
    priority = jax.random.uniform(key, x.shape)
  else:
    priority = jax.lax.stop_gradient(-x if keep == "hardest" else x)
  priority = jnp.where(own, jnp.inf, priority)  # the positive ranks last
  ranks = jnp.argsort(jnp.argsort(priority))
  return ranks < kept
