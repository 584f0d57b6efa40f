"""Fine-tuning of a released model on a folder of captioned images.

  configs/finetune.py:path=FOLDER,variant=siglip-b16-224,weights=W,tokenizer=T

FOLDER is as for configs/folder.py. W is big_vision's .npz or a transformers
folder, and T is the tokenizer's file. Images and texts are prepared exactly as
the publisher of W does, with the variant's own preprocessing strings; nothing
else may be mixed in.

The config follows no published row. Its choices, with reasons:

* No weight decay. It would pull the weights toward zero, away from good values
  (arXiv 2303.15343, section 4: pretrained weights do better without it).
* Both towers learn, slowly. locked=image locks the image tower, for new texts
  about known kinds of images; this is LiT and needs a third of the memory.
  locked=text locks the text tower, for new images described in known words.
* Temperature and bias start at their trained values, and learn. If they started
  at the initial 10 and -10, the first steps would unlearn what the towers know.
* Adam's b2 is 0.95, as in pretraining; 0.999 causes spikes at large batches.
* No augmentation. Captions may tell left from right, or mention what a crop
  would cut off.
"""

from pathlib import Path

import ml_collections

from siglip_jax.config import parse_arg
from siglip_jax.errors import UserError
from siglip_jax.models import zoo

_LOCKED = {"none": (), "image": ("img/.*",), "text": ("txt/.*",)}


def get_config(arg=None):
  arg = parse_arg(
      arg,
      path="images",
      variant="siglip-b16-224",
      weights="weights.npz",
      tokenizer="tokenizer.model",
      locked="none",
      steps=1000,
      batch=64,
      microbatch=0,  # for a batch that does not fit; only embeddings are kept
      lr=1e-5,
  )
  if arg.locked not in _LOCKED:
    raise UserError(
        f"locked must be one of {', '.join(_LOCKED)}; got {arg.locked!r}."
    )
  variant = zoo.get(arg.variant)
  is_npz = arg.weights.endswith(".npz")
  if not is_npz and Path(arg.weights).expanduser().is_file():
    raise UserError(
        "weights must be an .npz, by its name, or a transformers folder: each"
        f" prepares its inputs in its own way. Got the file {arg.weights}."
    )
  recipe = variant.big_vision if is_npz else variant.transformers
  # The recipe names a kind of tokenizer; replace the name with the file.
  text = recipe.text.replace(f"'{variant.tokenizer}'", repr(arg.tokenizer))

  c = ml_collections.ConfigDict()
  c.seed = 0
  c.total_steps = arg.steps
  c.batch_size = arg.batch
  c.microbatch = arg.microbatch
  c.image_size = variant.image_size
  c.text_len = variant.text_len
  c.log_steps = min(20, arg.steps)

  c.data = dict(path=arg.path, split="train")
  c.data.pp = f'{recipe.image}|{text}|keep("image", "text")'
  c.data.max_replaced_share = 0.01
  c.data.num_threads = 2
  # Naming the variant makes the run refuse any tokenizer but the variant's.
  c.preprocess = dict(image=recipe.image, text=text, variant=variant.name)
  c.model = dict(variant.model)
  c.model.scan = True
  c.model.remat = "full"  # for large towers on small machines
  parts = ("img", "txt", "t", "b")
  c.init = {part: dict(path=arg.weights) for part in parts}
  c.loss = dict(name="ring_sigmoid")
  cosine = dict(decay="cosine", warmup_percent=0.1)
  c.optim = dict(
      name="adam",
      lr=arg.lr,
      wd=0.0,
      options=dict(b2=0.95),
      schedule=[
          *((regex, None) for regex in _LOCKED[arg.locked]),
          (".*", cosine),
      ],
      clip_norm=1.0,
  )
  c.mesh = dict(data=-1)
  c.sharding = [(".*", "replicate")]
  c.evals = ml_collections.ConfigDict()
  c.evals.captions = dict(
      type="retrieval",
      dataset="captions",
      path=arg.path,
      split="validation",
      every_steps=max(arg.steps // 4, 1),
  )
  c.ckpt = dict(save_steps=max(arg.steps // 4, 1), keep=2)
  return c
