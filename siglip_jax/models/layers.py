"""Transformer layers, with big_vision's parameter names."""

from typing import Any

import einops
from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float

from siglip_jax.errors import UserError

Dtype = Any
_xavier = nn.initializers.xavier_uniform()
_REMAT = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def layer_norm(dtype: Dtype, name: str | None = None) -> nn.LayerNorm:
  """LayerNorm with eps 1e-6; its statistics are float32."""
  return nn.LayerNorm(epsilon=1e-6, dtype=dtype, name=name)


class MultiHeadDotProductAttention(nn.Module):
  """Attention of `q` over `kv`, softmax in float32.

  attention "auto" is the best implementation for the device, "xla" the einsums
  that run everywhere.
  """

  num_heads: int
  dtype: Dtype = jnp.float32
  attention: str = "auto"

  @nn.compact
  def __call__(
      self, q: Float[Array, "B Q D"], kv: Float[Array, "B K D"]
  ) -> Float[Array, "B Q D"]:
    """Raises UserError when the heads do not divide the width."""
    if self.attention not in ("auto", "xla"):
      raise UserError(f"attention must be auto or xla; got {self.attention!r}.")
    width = q.shape[-1]
    if width % self.num_heads:
      raise UserError(
          f"The width {width} must be a multiple of num_heads ="
          f" {self.num_heads}."
      )

    def heads(name, x):
      return nn.DenseGeneral(
          (self.num_heads, width // self.num_heads),
          kernel_init=_xavier,
          dtype=self.dtype,
          name=name,
      )(x)

    query, key, value = heads("query", q), heads("key", kv), heads("value", kv)
    query = query * (width // self.num_heads) ** -0.5
    logits = jnp.einsum(
        "BQNH,BKNH->BNQK", query, key, preferred_element_type=jnp.float32
    )
    weights = nn.softmax(logits).astype(self.dtype)
    out = jnp.einsum("BNQK,BKNH->BQNH", weights, value)
    return nn.DenseGeneral(
        width, axis=(-2, -1), kernel_init=_xavier, dtype=self.dtype, name="out"
    )(out)


class MlpBlock(nn.Module):
  """Two dense layers with a tanh GELU between them."""

  mlp_dim: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    """The same shape; tokens do not meet."""
    width = x.shape[-1]

    def dense(features, x):
      return nn.Dense(
          features,
          kernel_init=_xavier,
          dtype=self.dtype,
          bias_init=nn.initializers.normal(1e-6),
      )(x)

    return dense(width, nn.gelu(dense(self.mlp_dim, x), approximate=True))


class EncoderBlock(nn.Module):
  """Pre-LN transformer block. Returns a pair, as nn.scan wants it."""

  mlp_dim: int
  num_heads: int
  dtype: Dtype = jnp.float32
  attention: str = "auto"

  @nn.compact
  def __call__(self, x: Float[Array, "B L D"], _=None):
    """The block's output, and nothing for the scan to collect."""
    y = layer_norm(self.dtype)(x)
    x = x + MultiHeadDotProductAttention(
        self.num_heads, self.dtype, self.attention
    )(y, y)
    y = layer_norm(self.dtype)(x)
    x = x + MlpBlock(self.mlp_dim, self.dtype)(y)
    return x, None


class Encoder(nn.Module):
  """A stack of blocks, unrolled or scanned, and a last LayerNorm.

  remat "none" keeps all activations for the backward pass, "full" keeps only
  the inputs of the blocks, "dots" the matmuls of weights.
  """

  depth: int
  mlp_dim: int
  num_heads: int
  scan: bool = False
  remat: str = "none"
  dtype: Dtype = jnp.float32
  attention: str = "auto"

  @nn.compact
  def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    """Raises UserError for an unknown remat policy."""
    block = EncoderBlock
    if self.remat != "none":
      if self.remat not in _REMAT:
        raise UserError(
            f"remat must be none, full or dots; got {self.remat!r}."
        )
      # In a scan, recomputation cannot be merged with the forward pass anyway.
      block = nn.remat(
          block, policy=_REMAT[self.remat], prevent_cse=not self.scan
      )
    options: dict[str, Any] = dict(
        mlp_dim=self.mlp_dim,
        num_heads=self.num_heads,
        dtype=self.dtype,
        attention=self.attention,
    )
    x = x.astype(self.dtype)
    if self.scan:
      stack = nn.scan(
          block,
          variable_axes={"params": 0},
          split_rngs={"params": True},
          length=self.depth,
      )
      x, _ = stack(**options, name="encoderblock")(x, None)
    else:
      for i in range(self.depth):
        x, _ = block(**options, name=f"encoderblock_{i}")(x)
    return layer_norm(self.dtype, name="encoder_norm")(x)


class MAPHead(nn.Module):
  """Multihead attention pooling: one learned probe looks at all tokens."""

  mlp_dim: int
  num_heads: int
  dtype: Dtype = jnp.float32
  attention: str = "auto"

  @nn.compact
  def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B D"]:
    """One vector for each sequence."""
    b, _, d = x.shape
    probe = self.param("probe", _xavier, (1, 1, d))
    probe = einops.repeat(probe.astype(self.dtype), "1 1 d -> b 1 d", b=b)
    x = MultiHeadDotProductAttention(
        self.num_heads, self.dtype, self.attention
    )(probe, x)
    y = layer_norm(self.dtype)(x)
    x = x + MlpBlock(self.mlp_dim, self.dtype)(y)
    return x[:, 0]
