"""The text tower: a transformer encoder without an attention mask."""

from flax import linen as nn
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int
import numpy as np

from siglip_jax.errors import UserError
from siglip_jax.models import layers

# pool_type -> index of the pooled token, for types that pool a single token.
_POOLED = {"last": -1, "first": 0}


class TextTransformer(nn.Module):
  """Token embeddings, learned positions, blocks, pooling and a projection.

  Attributes:
    width: width of the residual stream.
    depth: number of blocks.
    mlp_dim: hidden width of the MLPs.
    num_heads: number of attention heads.
    vocab_size: number of rows of the token embedding.
    pool_type: "last", "first", "gap" (mean), "max" or "map".
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
  vocab_size: int
  pool_type: str = "last"
  out_dim: int | None = None
  scan: bool = False
  remat: str = "none"
  dtype: layers.Dtype = jnp.float32
  attention: str = "auto"

  @nn.compact
  def __call__(self, text: Int[Array, "B L"]) -> Float[Array, "B D"]:
    """Returns embeddings of token ids, not normalised."""
    x = nn.Embed(self.vocab_size, self.width, dtype=self.dtype, name="Embed_0")(
        text
    )
    init = nn.initializers.normal(1 / np.sqrt(self.width))
    positions = self.param("pos_embedding", init, (1, *x.shape[1:]))
    x = x + positions.astype(self.dtype)
    x = layers.Encoder(
        depth=self.depth,
        mlp_dim=self.mlp_dim,
        num_heads=self.num_heads,
        scan=self.scan,
        remat=self.remat,
        dtype=self.dtype,
        attention=self.attention,
        only=_POOLED[self.pool_type] if self.pool_type in _POOLED else None,
        name="Encoder_0",
    )(x)
    x = self._pool(x)
    if self.out_dim is not None:
      x = nn.Dense(self.out_dim, dtype=self.dtype, name="head")(x)
    return x

  def _pool(self, x):
    if self.pool_type in _POOLED:
      return x[:, 0]  # the only token that the encoder returns
    if self.pool_type == "gap":
      return jnp.mean(x, axis=1)
    if self.pool_type == "max":
      return jnp.max(x, axis=1)
    if self.pool_type == "map":
      return layers.MAPHead(
          self.mlp_dim,
          self.num_heads,
          self.dtype,
          self.attention,
          name="MAPHead_0",
      )(x)
    raise UserError(
        "pool_type of the text tower must be last, first, gap, max or map; got"
        f" {self.pool_type!r}."
    )
