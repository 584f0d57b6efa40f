"""Transformer layers with big_vision's parameter names."""

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
  """Returns a LayerNorm with eps 1e-6 and float32 statistics."""
  return nn.LayerNorm(epsilon=1e-6, dtype=dtype, name=name)


class MultiHeadDotProductAttention(nn.Module):
  """Multi-head attention of `q` over `kv`, with a float32 softmax.

  Cross-attention, such as the MAP head's probe, always uses the einsums.

  Attributes:
    num_heads: number of heads; must divide the width.
    dtype: dtype of activations and matmuls.
    attention: "fused" uses the Pallas kernel of `fused_attention`, "xla" uses
      einsums that run everywhere, and "auto" uses the kernel on TPUs and the
      einsums elsewhere.
  """

  num_heads: int
  dtype: Dtype = jnp.float32
  attention: str = "auto"

  @nn.compact
  def __call__(
      self, q: Float[Array, "B Q D"], kv: Float[Array, "B K D"]
  ) -> Float[Array, "B Q D"]:
    """Raises UserError if num_heads does not divide the width."""
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
    # Parameters may be initialised before there are devices; see `_is_fused`.
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
  """Whether a module's attention over x uses the Pallas kernel."""
  attention_lib.check(module.attention)
  # "auto" depends on the kind of device, and parameters may be initialised
  # before there are devices. Their shapes are the same for both paths.
  return not module.is_initializing() and attention_lib.is_chosen(
      module.attention, x, module.num_heads
  )


class MlpBlock(nn.Module):
  """Two dense layers with a tanh GELU between them."""

  mlp_dim: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    """Returns an array of the same shape; tokens do not interact."""
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
  """A pre-LN transformer block.

  Attributes:
    mlp_dim: hidden width of the MLP.
    num_heads: number of attention heads.
    dtype: dtype of activations and matmuls.
    attention: see `MultiHeadDotProductAttention`.
    only: index of the one token to compute, which still attends to all tokens;
      None computes all tokens.
  """

  mlp_dim: int
  num_heads: int
  dtype: Dtype = jnp.float32
  attention: str = "auto"
  only: int | None = None

  @nn.compact
  def __call__(self, x: Float[Array, "B L D"], _=None):
    """Returns (output, None), the carry and output that nn.scan expects."""
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
  """A stack of blocks, unrolled or scanned, and a final LayerNorm.

  Attributes:
    depth: number of blocks.
    mlp_dim: hidden width of the MLPs.
    num_heads: number of attention heads.
    scan: stack the blocks' parameters and scan over the blocks.
    remat: what to keep for the backward pass. "none" keeps all activations.
      "full" keeps only the inputs of the blocks. "dots" also keeps queries,
      keys, values, attention outputs and the MLP's hidden layer, so that no
      large matmul is recomputed; it keeps neither attention maps nor GELU
      outputs.
    dtype: dtype of activations and matmuls.
    attention: see `MultiHeadDotProductAttention`.
    only: index of the one token to return; None returns all tokens. If the
      blocks are unrolled, the last block computes no other token.
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
    """Returns all tokens, or one; raises UserError for an unknown remat."""
    block = EncoderBlock
    if self.remat != "none":
      if self.remat not in _REMAT:
        raise UserError(
            f"remat must be none, full or dots; got {self.remat!r}."
        )
      # Inside a scan, XLA cannot merge recomputation with the forward pass, so
      # the barriers that prevent it are not needed.
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
  """Multi-head attention pooling: one learned probe attends to all tokens."""

  mlp_dim: int
  num_heads: int
  dtype: Dtype = jnp.float32
  attention: str = "auto"

  @nn.compact
  def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B D"]:
    """Returns one vector per sequence."""
    b, _, d = x.shape
    probe = self.param("probe", dense.xavier, (1, 1, d))
    probe = einops.repeat(probe.astype(self.dtype), "1 1 d -> b 1 d", b=b)
    x = MultiHeadDotProductAttention(
        self.num_heads, self.dtype, self.attention
    )(probe, x)
    y = layer_norm(self.dtype)(x)
    x = x + MlpBlock(self.mlp_dim, self.dtype)(y)
    return x[:, 0]
