"""Dense layers to and from attention heads, in a TPU-friendly layout."""

import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float

Dtype = Any
xavier = nn.initializers.xavier_uniform()


class HeadsDense(nn.Module):
  """A dense layer to or from attention heads, stored side by side in a row.

  Parameters have the shapes of nn.DenseGeneral: kernel (D, N, H) and bias
  (N, H), or kernel (N, H, D) and bias (D,) for the layer back from heads.
  Activations are (B, L, N*H), never (B, L, N, H), because a TPU pads the last
  axis to 128.

  Attributes:
    features: output axes, (N, H) or (D,).
    heads_in: input axes (N, H) for the layer back from heads, else empty.
    dtype: dtype of the matmul and its output.
  """

  features: tuple[int, ...]
  heads_in: tuple[int, ...] = ()
  dtype: Dtype = jnp.float32

  @nn.compact
  def parameters(self, width: int) -> tuple[Array, Array]:
    """Returns the kernel (width, E) and the bias (E,) for inputs this wide."""
    shape = (*(self.heads_in or (width,)), *self.features)
    flat = (width, math.prod(self.features))

    def kernel_init(key):
      return xavier(key, flat).reshape(shape)

    kernel = self.param("kernel", kernel_init).reshape(flat)
    bias = self.param("bias", nn.initializers.zeros, self.features)
    return kernel, bias.reshape(-1)

  def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L E"]:
    return apply(x, *self.parameters(x.shape[-1]), self.dtype)


def apply(
    x: Float[Array, "B L D"],
    kernel: Float[Array, "D E"],
    bias: Float[Array, " E"],
    dtype: Dtype,
) -> Float[Array, "B L E"]:
  """Returns x @ kernel + bias in `dtype`, whatever the parameters' dtype."""
  return _add_bias(x.astype(dtype) @ kernel.astype(dtype), bias)


# The gradient of a bias is a sum over all tokens. XLA:TPU computes that sum on
# the vector unit, in a pass that takes longer than the gradient of the weights.
# A product with ones, on the matrix unit, takes a quarter of that time.
@jax.custom_vjp
def _add_bias(x, bias):
  return x + bias.astype(x.dtype)[None, None]


def _add_bias_fwd(x, bias):
  return _add_bias(x, bias), bias


def _add_bias_bwd(bias, d_out):
  return d_out, _sum_tokens(d_out).astype(bias.dtype)


_add_bias.defvjp(_add_bias_fwd, _add_bias_bwd)


def _sum_tokens(x: Float[Array, "B L D"]) -> Float[Array, " D"]:
  """Returns the float32 sum over B and L, as a product with ones."""
  # XLA would turn a single row of ones, or constant ones, back into a sum.
  ones = jax.lax.optimization_barrier(jnp.ones((8, *x.shape[:2]), x.dtype))
  sums = jnp.einsum("EBL,BLD->ED", ones, x, preferred_element_type=jnp.float32)
  return sums[0]
