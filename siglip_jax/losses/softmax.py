"""The contrastive softmax loss of CLIP (arXiv 2103.00020), the baseline."""

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float


def softmax_loss(
    zimg: Float[Array, "B D"],
    ztxt: Float[Array, "B D"],
    t_prime: Float[Array, ""],
) -> Float[Array, ""]:
  """Mean of the image-to-text and the text-to-image cross-entropy.

  Under jit with sharded rows XLA gathers all texts to score a device's images,
  and the reverse: the B x B matrix is sharded by rows, once each way.

  Args:
    zimg: L2-normalised image embeddings.
    ztxt: L2-normalised text embeddings; row i belongs to image i.
    t_prime: log temperature.

  Returns:
    The loss; log B for embeddings that tell nothing apart.
  """
  dtype = jnp.promote_types(jnp.float32, zimg.dtype)
  logits = jnp.exp(t_prime) * jnp.einsum(
      "ND,MD->NM", zimg, ztxt, preferred_element_type=dtype
  )
  img2txt = jnp.diagonal(jax.nn.log_softmax(logits, axis=1))
  txt2img = jnp.diagonal(jax.nn.log_softmax(logits, axis=0))
  return -(jnp.mean(img2txt) + jnp.mean(txt2img)) / 2
