"""The image tower: a Vision Transformer (arXiv 2010.11929)."""

from flax import linen as nn
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
import numpy as np

from siglip_jax.errors import UserError
from siglip_jax.models import layers

# (width, depth, mlp_dim, num_heads) of the released models.
VARIANTS = {
    "mu": (32, 1, 128, 2),
    "Ti": (192, 12, 768, 3),
    "S": (384, 12, 1536, 6),
    "M": (512, 12, 2048, 8),
    "B": (768, 12, 3072, 12),
    "L": (1024, 24, 4096, 16),
    "So400m": (1152, 27, 4304, 16),
    "H": (1280, 32, 5120, 16),
    "g": (1408, 40, 6144, 16),
    "g-opt": (1536, 40, 6144, 16),
    "G": (1664, 48, 8192, 16),
}


def sizes(variant: str) -> dict[str, int]:
  """Returns width, depth, mlp_dim and num_heads of a variant.

  Raises:
    UserError: the variant is unknown.
  """
  if variant not in VARIANTS:
    raise UserError(
        f"Unknown model variant {variant!r}; known are {', '.join(VARIANTS)},"
        ' for images with the patch size, as in "B/16".'
    )
  names = ("width", "depth", "mlp_dim", "num_heads")
  return dict(zip(names, VARIANTS[variant], strict=True))


class VIT(nn.Module):
  """Patches, positions, blocks, a pooling head and an optional projection.

  Attributes:
    width: width of the residual stream.
    depth: number of blocks.
    mlp_dim: hidden width of the MLPs.
    num_heads: number of attention heads, also of the MAP head.
    patch: side of a patch, in pixels.
    pool_type: "map", "gap" (mean) or "tok" (class token).
    posemb: "learn" or "sincos2d"; positions are added before the class token.
    ragged: ignore the pixels to the right of and below the last whole patch, as
      So400m/14 does at 384 pixels; without it, such pixels are an error.
    out_dim: width of the projection, or None for none.
    scan: stack the blocks' parameters and scan over the blocks.
    remat: see `layers.Encoder`.
    dtype: dtype of activations and matmuls.
    attention: "auto", "xla" or "fused"; see
      `layers.MultiHeadDotProductAttention`.
  """

  width: int
  depth: int
  mlp_dim: int
  num_heads: int
  patch: int
  pool_type: str = "map"
  posemb: str = "learn"
  ragged: bool = False
  out_dim: int | None = None
  scan: bool = False
  remat: str = "none"
  dtype: layers.Dtype = jnp.float32
  attention: str = "auto"

  @nn.compact
  def __call__(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B D"]:
    """Returns embeddings of images in [-1, 1], not normalised."""
    _, h, w, _ = images.shape
    left_over = (h % self.patch or w % self.patch) and not self.ragged
    if left_over or min(h, w) < self.patch:
      raise UserError(
          f"Images of {h} x {w} pixels cannot be cut into patches of"
          f" {self.patch}: change image_size or patch."
      )
    x = nn.Conv(
        self.width,
        (self.patch, self.patch),
        strides=(self.patch, self.patch),
        padding="VALID",
        dtype=self.dtype,
        name="embedding",
    )(images.astype(self.dtype))
    b, rows, cols, d = x.shape
    x = x.reshape(b, rows * cols, d)
    x = x + self._positions(rows, cols, d).astype(self.dtype)
    if self.pool_type == "tok":
      cls = self.param("cls", nn.initializers.zeros, (1, 1, d))
      cls = jnp.broadcast_to(cls.astype(self.dtype), (b, 1, d))
      x = jnp.concatenate([cls, x], axis=1)
    x = layers.Encoder(
        depth=self.depth,
        mlp_dim=self.mlp_dim,
        num_heads=self.num_heads,
        scan=self.scan,
        remat=self.remat,
        dtype=self.dtype,
        attention=self.attention,
        name="Transformer",
    )(x)
    x = self._pool(x)
    if self.out_dim is not None:
      x = nn.Dense(self.out_dim, dtype=self.dtype, name="head")(x)
    return x

  def _positions(self, h: int, w: int, width: int):
    if self.posemb == "learn":
      init = nn.initializers.normal(1 / np.sqrt(width))
      return self.param("pos_embedding", init, (1, h * w, width))
    if self.posemb == "sincos2d":
      return sincos2d(h, w, width)
    raise UserError(f"posemb must be learn or sincos2d; got {self.posemb!r}.")

  def _pool(self, x):
    if self.pool_type == "map":
      return layers.MAPHead(
          self.mlp_dim,
          self.num_heads,
          self.dtype,
          self.attention,
          name="MAPHead_0",
      )(x)
    if self.pool_type == "gap":
      return jnp.mean(x, axis=1)
    if self.pool_type == "tok":
      return x[:, 0]
    raise UserError(
        f"pool_type of the image tower must be map, gap or tok; got"
        f" {self.pool_type!r}."
    )


def sincos2d(h: int, w: int, width: int) -> Float[Array, "1 L D"]:
  """Returns fixed positions as in MoCo v3 (arXiv 2104.02057).

  The quarters of the width are sin(x), cos(x), sin(y) and cos(y).

  Raises:
    UserError: the width is not divisible by 4.
  """
  if width % 4:
    raise UserError(f"sincos2d needs a width divisible by 4; got {width}.")
  y, x = jnp.mgrid[:h, :w]
  omega = 1 / 10_000 ** (jnp.arange(width // 4) / (width // 4 - 1))
  y = jnp.einsum("M,D->MD", y.flatten().astype(jnp.float32), omega)
  x = jnp.einsum("M,D->MD", x.flatten().astype(jnp.float32), omega)
  waves = [jnp.sin(x), jnp.cos(x), jnp.sin(y), jnp.cos(y)]
  return jnp.concatenate(waves, axis=1)[None]
