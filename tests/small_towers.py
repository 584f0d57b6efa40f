"""Two small towers: their shapes, their weights, and these read back."""

import functools

import jax
import numpy as np
import toy

from siglip_jax import init
from siglip_jax import tree
from siglip_jax.models.two_towers import TwoTowers

SPEC = dict(image="decode", text='tokenize(8, model="t")', tokenizer_digest="d")


def model(**changes):
  """Two small towers; "tok" so that there is a class token to lose."""
  options = toy.config().model.to_dict()
  options["image"] |= dict(depth=2, pool_type="tok")
  return TwoTowers(**(options | changes))


def shapes(side=16, **changes):
  towers = model(**changes)
  return jax.eval_shape(
      lambda key: towers.init(key, (side, side, 3), 8), jax.random.key(0)
  )


@functools.cache
def params():
  """Weights of `model()`, which a test must not change."""
  rng = np.random.default_rng(0)  # no zeros, which would look like no change
  return jax.tree.map(
      lambda x: rng.normal(size=x.shape).astype(np.float32), shapes()
  )


def read(path, shapes, **options):
  """Fitted arrays of img by name."""
  section = {"img": dict(path=str(path)) | options}
  return init.read(section, shapes, SPEC)[0]["img"]


def augreg(img):
  """An image tower as AugReg's files have it."""
  old = jax.tree.map(np.copy, img)
  encoder = old["Transformer"]
  for block in [encoder[f"encoderblock_{i}"] for i in range(2)]:
    block["MultiHeadDotProductAttention_1"] = block.pop(
        "MultiHeadDotProductAttention_0"
    )
    block["LayerNorm_2"] = block.pop("LayerNorm_1")
    block["MlpBlock_3"] = block.pop("MlpBlock_0")
  row = np.full_like(old["cls"], 0.5)
  positions = np.concatenate([row, old.pop("pos_embedding")], axis=1)
  encoder["posembed_input"] = {"pos_embedding": positions}
  old["cls"] -= row
  old["head"] = {"kernel": np.zeros((64, 9), np.float32)}
  old["pre_logits"] = {"kernel": np.zeros((64, 64), np.float32)}
  return old


def assert_trees_equal(a, b):
  a, b = tree.flatten(a), tree.flatten(b)
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)
