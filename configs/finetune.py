"""Fine-tuning of a released model on captioned images.

  configs/finetune.py:path=FOLDER,variant=siglip-b16-224,weights=W,tokenizer=T

FOLDER is as for configs/folder.py, and so are `name=`, `data_dir=`, `text=` and
the splits. W is big_vision's .npz or a transformers folder, and T is the
tokenizer's file. Images and texts are prepared exactly as the publisher of W
does, by the variant's own preprocessing strings; nothing else may be mixed in.
`init=WORKDIR` starts from an earlier run of this config instead of from W.

The config follows no published row. Its choices, with reasons:

* No weight decay. It would pull the weights toward zero, away from good values
  (arXiv 2303.15343, section 4: pretrained weights do better without it).
* Both towers learn, slowly. lock=image locks the image tower, for new texts
  about known kinds of images; this is LiT and needs a third of the memory.
  lock=text locks the text tower, for new images described in known words.
* With lock=image, `embeddings=DIR` trains without the image tower, on the
  folders DIR/train and DIR/validation that `python -m siglip_jax.embed` wrote.
* Temperature and bias start at their trained values, and learn. If they started
  at the initial 10 and -10, the first steps would unlearn what the towers know.
* Adam's b2 is 0.95, as in pretraining; 0.999 causes spikes at large batches.
* No augmentation. Captions may tell left from right, or mention what a crop
  would cut off.
"""

import os
from pathlib import Path

import ml_collections

from siglip_jax.config import at_most_one
from siglip_jax.config import one_of
from siglip_jax.config import parse_arg
from siglip_jax.errors import UserError
from siglip_jax.models import zoo

_LOCK = {"none": (), "image": ("img/.*",), "text": ("txt/.*",)}


def get_config(arg=None):
  arg = parse_arg(
      arg,
      path="",  # "images", if no data set is named
      name="",  # a TFDS data set
      data_dir=os.environ.get("TFDS_DATA_DIR", "data"),
      embeddings="",
      text="text",  # key of the captions
      train_split="train",
      val_split="validation",  # empty: no evaluation
      variant="siglip-b16-224",
      weights="weights.npz",
      tokenizer="tokenizer.model",
      init="",
      lock="none",
      locked="",  # the same as lock
      dtype="float32",
      text_len=0,  # that of the variant
      steps=1000,
      batch=64,
      microbatch=0,  # for a batch that does not fit; only embeddings are kept
      lr=1e-5,
  )
  at_most_one(arg, "path", "name", "embeddings")
  lock = arg.locked or arg["lock"]
  locked = one_of("lock", lock, _LOCK)
  if arg["lock"] not in ("none", lock):
    raise UserError(
        "locked= is the older name of lock=: give one of them; got"
        f" locked={arg.locked} and lock={arg['lock']}."
    )
  if arg.embeddings and lock != "image":
    raise UserError("embeddings= are of a locked image tower: add lock=image.")
  variant = zoo.get(arg.variant)
  if arg.text_len not in (0, variant.text_len):
    raise UserError(
        f"text_len must be {variant.text_len}, for which {variant.name}'s text"
        " positions were trained: they cannot be resampled, as the last one"
        f" stands for the whole text; got {arg.text_len}."
    )
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

  train = val = dict(path=arg.path or "images")
  if arg.name:
    train = val = dict(name=arg.name, data_dir=arg.data_dir)
  image = recipe.image
  if arg.embeddings:
    image = "pick_crop"
    train = dict(embeddings=f"{arg.embeddings}/{arg.train_split}")
    val = dict(embeddings=f"{arg.embeddings}/{arg.val_split}")
  # A data set may have several captions of an image, of which one is drawn.
  plain = not (arg.name or arg.embeddings) and arg.text == "text"
  caption = "" if plain else f"pick({arg.text!r})|"
  c.data = dict(**train, split=arg.train_split)
  c.data.pp = f'{image}|{caption}{text}|keep("image", "text")'
  c.data.max_replaced_share = 0.01
  c.data.num_threads = 2
  # Naming the variant makes the run refuse any tokenizer but the variant's.
  c.preprocess = dict(image=recipe.image, text=text, variant=variant.name)
  c.model = dict(variant.model)
  c.model.dtype = arg.dtype
  c.model.scan = True
  c.model.remat = "full"  # for large towers on small machines
  c.model.embedded = bool(arg.embeddings)
  parts = ("txt", "t", "b") if arg.embeddings else ("img", "txt", "t", "b")
  c.init = {part: dict(path=arg.init or arg.weights) for part in parts}
  c.loss = dict(name="ring_sigmoid")
  cosine = dict(decay="cosine", warmup_percent=0.1)
  c.optim = dict(
      name="adam",
      lr=arg.lr,
      wd=0.0,
      options=dict(b2=0.95),
      schedule=[*((regex, None) for regex in locked), (".*", cosine)],
      clip_norm=1.0,
  )
  if arg.embeddings:
    c.optim.schedule = [(".*", cosine)]  # there is no image tower to lock
  c.mesh = dict(data=-1)
  c.sharding = [(".*", "replicate")]
  c.evals = ml_collections.ConfigDict()
  if arg.val_split:
    c.evals.captions = dict(
        type="retrieval",
        dataset="captions",
        split=arg.val_split,
        text=arg.text,
        every_steps=max(arg.steps // 4, 1),
        **val,
    )
  c.ckpt = dict(save_steps=max(arg.steps // 4, 1), keep=2)
  return c
