"""Transformer layers, with big_vision's parameter names."""

from typing import Any

import einops
from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float

from siglip_jax.errors import UserError
from siglip_jax.models import attention as attention_lib
from siglip_jax.models import dense
from siglip_jax.models.attention import xla

Dtype = dense.Dtype
_REMAT = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.save_only_these_names(
        "qkv", "attended", "hidden"
    ),
}


def layer_norm(dtype: Dtype, name: str | None = None) -> nn.LayerNorm:
  """LayerNorm with eps 1e-6; its statistics are float32."""
  return nn.LayerNorm(epsilon=1e-6, dtype=dtype, name=name)


class MultiHeadDotProductAttention(nn.Module):
  """Attention of `q` over `kv`, softmax in float32.

  attention "fused" is the Pallas kernel of `fused_attention`, "xla" the einsums
  that run everywhere, "auto" the kernel on TPUs and einsums elsewhere. Tokens
  that attend to others than themselves, as the MAP head's probe, take the
  einsums in any case.
  """

  num_heads: int
  dtype: Dtype = jnp.float32
  attention: str = "auto"

  @nn.compact
  def __call__(
      self, q: Float[Array, "B Q D"], kv: Float[Array, "B K D"]
  ) -> Float[Array, "B Q D"]:
    """Raises UserError when the heads do not divide the width."""
    width = q.shape[-1]
    if width % self.num_heads:
      raise UserError(
          f"The width {width} must be a multiple of num_heads ="
          f" {self.num_heads}."
      )
    heads = (self.num_heads, width // self.num_heads)
    projections = [
        dense.HeadsDense(heads, dtype=self.dtype, name=name)
        for name in ("query", "key", "value")
    ]
    if q is kv and _is_fused(self, q):
      out = self._fused(q, projections)
    else:
      query, key, value = projections
      query, key, value = checkpoint_name((query(q), key(kv), value(kv)), "qkv")
      out = self._by_xla()(query, key, value, self.num_heads)
    out = checkpoint_name(out, "attended")
    return dense.HeadsDense((width,), heads, self.dtype, name="out")(out)

  def _by_xla(self):
    # The device is not asked for before there is one, as in `_is_fused`.
    if self.is_initializing() or attention_lib.platform() != "cpu":
      return xla.tokens_first
    return xla.heads_first

  def _fused(self, x, projections):
    (wq, bq), (wk, bk), (wv, bv) = (
        p.parameters(x.shape[-1]) for p in projections
    )
    qkv = dense.apply(
        x,
        attention_lib.join(wq, wk, wv, self.num_heads),
        attention_lib.join(bq, bk, bv, self.num_heads),
        self.dtype,
    )
    out = attention_lib.fused_attention(
        checkpoint_name(qkv, "qkv"),
        num_heads=self.num_heads,
        interpret=not attention_lib.on_tpu(),
    )
    return out


def _is_fused(module, x) -> bool:
  """Whether a module's attention over x is the kernel's."""
  attention_lib.check(module.attention)
  # Parameters have the same shapes in any case, and are asked for before there
  # are devices, whose kind "auto" depends on.
  return not module.is_initializing() and attention_lib.is_chosen(
      module.attention, x, module.num_heads
  )


class MlpBlock(nn.Module):
  """Two dense layers with a tanh GELU between them."""

  mlp_dim: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    """The same shape; tokens do not meet."""
    width = x.shape[-1]

    def layer(features, x):
      return nn.Dense(
          features,
          kernel_init=dense.xavier,
          dtype=self.dtype,
          bias_init=nn.initializers.normal(1e-6),
      )(x)

    hidden = checkpoint_name(layer(self.mlp_dim, x), "hidden")
    return layer(width, nn.gelu(hidden, approximate=True))


class EncoderBlock(nn.Module):
  """Pre-LN transformer block. Returns a pair, as nn.scan wants it.

  With `only` it makes that token alone, of which others are keys and values.
  """

  mlp_dim: int
  num_heads: int
  dtype: Dtype = jnp.float32
  attention: str = "auto"
  only: int | None = None

  @nn.compact
  def __call__(self, x: Float[Array, "B L D"], _=None):
    """The block's output, and nothing for the scan to collect."""
    if _is_fused(self, x):
      x = attention_lib.row_major(x)
    y = kv = layer_norm(self.dtype)(x)
    if self.only is not None:
      x, y = x[:, self.only, None], y[:, self.only, None]
    x = x + MultiHeadDotProductAttention(
        self.num_heads, self.dtype, self.attention
    )(y, kv)
    y = layer_norm(self.dtype)(x)
    x = x + MlpBlock(self.mlp_dim, self.dtype)(y)
    return x, None


class Encoder(nn.Module):
  """A stack of blocks, unrolled or scanned, and a last LayerNorm.

  remat "none" keeps all activations for the backward pass, "full" keeps only
  the inputs of the blocks, "dots" also queries, keys, values, what attention
  makes of them and the MLP's hidden layer: no large matmul is done again, and
  neither attention maps nor activations are kept.

  With `only` one token is wanted: unrolled, the last block makes no other.
  """

  depth: int
  mlp_dim: int
  num_heads: int
  scan: bool = False
  remat: str = "none"
  dtype: Dtype = jnp.float32
  attention: str = "auto"
  only: int | None = None

  @nn.compact
  def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B K D"]:
    """All tokens, or one; raises UserError for an unknown remat policy."""
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
        only = self.only if i == self.depth - 1 else None
        x, _ = block(**options, only=only, name=f"encoderblock_{i}")(x)
    if self.only is not None and x.shape[1] > 1:
      x = x[:, self.only, None]
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
    probe = self.param("probe", dense.xavier, (1, 1, d))
    probe = einops.repeat(probe.astype(self.dtype), "1 1 d -> b 1 d", b=b)
    x = MultiHeadDotProductAttention(
        self.num_heads, self.dtype, self.attention
    )(probe, x)
    y = layer_norm(self.dtype)(x)
    x = x + MlpBlock(self.mlp_dim, self.dtype)(y)
    return x[:, 0]
