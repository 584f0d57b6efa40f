import numpy as np

from siglip_jax.evals import prompts


def test_embeddings_weigh_the_same_and_keep_their_class():
  table = {
      "a cat": [10.0, 0.0], "cat": [0.0, 1.0],
      "a dog": [0.0, -3.0], "dog": [0.0, -5.0],
  }  # fmt: skip

  def encode(texts):
    return np.array([table[t] for t in texts])

  z = prompts.ensemble(encode, ["cat", "dog"], ("a {}", "{}"))
  half = 0.5**0.5
  np.testing.assert_allclose(z, [[half, half], [0.0, -1.0]])
