"""Training on images of your own: configs/folder.py:path=my_images.

Captions are in a .txt beside each image, or in a captions.jsonl. Train the
tokenizer first:
`python -m siglip_jax.data.tokenizer --path=my_images --out=tokenizer.model`.
The config follows no published row; its towers are small enough for a CPU.

`name=DATA,data_dir=DIR` reads a TFDS data set instead of a folder, with
`text=KEY` for the key of its captions. `init=WORKDIR` starts from a run of this
config, and `lock=image` or `lock=text` then keeps one of its towers as it is.
"""

import json
import os

import ml_collections

from siglip_jax.config import at_most_one
from siglip_jax.config import one_of
from siglip_jax.config import parse_arg
from siglip_jax.errors import UserError

_LOCK = {"none": (), "image": ("img/.*",), "text": ("txt/.*",)}


def get_config(arg=None):
  arg = parse_arg(
      arg,
      path="",  # "images", if no data set is named
      name="",  # a TFDS data set
      data_dir=os.environ.get("TFDS_DATA_DIR", "data"),
      text="text",  # key of the captions
      train_split="train",
      val_split="validation",  # empty: no evaluation
      tokenizer="tokenizer.model",
      init="",  # workdir or weights that all parameters start from
      lock="none",
      dtype="float32",
      steps=1000,
      batch=64,
      res=64,
      text_len=32,
  )
  at_most_one(arg, "path", "name")
  locked = one_of("lock", arg["lock"], _LOCK)
  if locked and not arg.init:
    raise UserError(
        f"lock={arg['lock']} needs init=, the weights that the tower keeps: at"
        " random values it would learn nothing."
    )
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.total_steps = arg.steps
  c.batch_size = arg.batch
  c.microbatch = 0
  c.image_size = arg.res
  c.text_len = arg.text_len
  c.log_steps = min(20, arg.steps)

  data = dict(path=arg.path or "images")
  if arg.name:
    data = dict(name=arg.name, data_dir=arg.data_dir)
  # A data set may have several captions of an image, of which one is drawn.
  caption = f"pick({arg.text!r})|" if arg.name or arg.text != "text" else ""
  model = json.dumps(arg.tokenizer)  # in quotes, whatever the path holds
  text = (
      f"lower|tokenize(max_len={arg.text_len}, model={model},"
      ' eos="sticky", pad_value=1)'
  )
  c.data = dict(**data, split=arg.train_split)
  c.data.pp = (
      f"decode(near={arg.res})|inception_crop({arg.res}, area_min=40)"
      f'|value_range(-1,1)|{caption}{text}|keep("image", "text")'
  )
  c.data.max_replaced_share = 0.01
  c.data.num_threads = 2
  c.preprocess = dict(
      image=f"decode|resize({arg.res})|value_range(-1,1)", text=text
  )
  c.model = dict(
      image=dict(width=192, depth=6, mlp_dim=768, num_heads=6, patch=16),
      text=dict(width=192, depth=4, mlp_dim=768, num_heads=6, vocab_size=8000),
      out_dim=(None, 192),
      bias_init=-4.0,
      dtype=arg.dtype,
  )
  if arg.init:
    c.init = {part: dict(path=arg.init) for part in ("img", "txt", "t", "b")}
  c.loss = dict(name="ring_sigmoid")
  c.optim = dict(
      lr=1e-3,
      wd=1e-4,
      schedule=[
          *((regex, None) for regex in locked),
          (".*", dict(decay="cosine", warmup_percent=0.1)),
      ],
  )
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
        **data,
    )
  c.ckpt = dict(save_steps=max(arg.steps // 4, 1), keep=2)
  return c
