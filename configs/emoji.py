"""The default run: a small SigLIP on emoji and their names, on two CPU cores.

It follows no published row: it has SigLIP's loss and towers (arXiv 2303.15343)
at a size that learns in minutes. `configs/emoji.py:steps=200000` takes an hour.

Three choices each make it learn from fewer examples: mean pooling instead of
MAP heads, a text tower without blocks, and a value range in which white is 0.
They were made on images held out of `train`.
"""

import os

import ml_collections

from siglip_jax.config import parse_arg


def get_config(arg=None):
  arg = parse_arg(arg, steps=17_000, langs="en", side=48)
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.total_steps = arg.steps
  c.batch_size = 32  # steps matter more here than large batches
  c.microbatch = 0
  c.image_size = arg.side  # pixels
  c.text_len = 16  # tokens; when cut, three English names equal another
  c.log_steps = 200

  data_dir = os.environ.get("TFDS_DATA_DIR", "data")
  langs = arg.langs.split("+")
  model = f"{data_dir}/emoji/1.0.0/tokenizer.model"
  text = (
      f'lower|tokenize(max_len=16, model="{model}", eos="sticky", pad_value=1)'
  )
  picked = ", ".join(f'"names/{lang}"' for lang in langs)
  emoji = dict(name="emoji", data_dir=data_dir)

  c.data = dict(**emoji, split="train")
  # White, which fills most of an image, is 0, so that patches differ from the
  # start. `redraw` makes outlined and flat drawings more alike. Colors carry
  # information, so the jitter is mild. No mirroring: some names say left or
  # right.
  c.data.pp = (
      f"decode|resize({c.image_size})|affine(8, 0.04, 0.85, 1.05)"
      f"|redraw(0.7)|color_jitter(0.15, 0.0, 0.3)|value_range(-2,0)"
      f'|choice({picked}, outkey="text")|{text}|keep("image", "text")'
  )
  c.data.max_replaced_share = 0.01
  c.data.num_threads = 2
  c.data.cache_mb = 100  # enough for all images, 8 kB each
  c.preprocess = dict(
      image=f"decode|resize({c.image_size})|value_range(-2,0)", text=text
  )

  c.model = dict(
      image=dict(
          width=128,
          depth=4,
          mlp_dim=512,
          num_heads=2,
          patch=16,
          pool_type="gap",
      ),
      # A name is the mean of its pieces. With no text blocks to train, the
      # image tower does the learning.
      text=dict(
          width=128,
          depth=0,
          mlp_dim=512,
          num_heads=2,
          vocab_size=8000,
          pool_type="gap",
      ),
      out_dim=(None, 128),
      temperature_init=10.0,
      bias_init=-3.5,  # about -log(batch_size); the paper's -10 suits 32k
  )
  c.loss = dict(name="ring_sigmoid")
  c.optim = dict(
      name="adam",
      lr=1e-3,
      wd=1e-4,
      options=dict(b2=0.99),
      lr_mults=[("t|b", 5.0), (".*", 1.0)],  # t, b must move far in few steps
      schedule=[(".*", dict(decay="cosine", warmup_percent=0.03))],
      clip_norm=1.0,
  )
  c.mesh = dict(data=-1, fsdp=1, tensor=1)
  c.sharding = [(".*", "fsdp")]

  every = dict(every_steps=max(arg.steps // 4, 1), **emoji)
  names = ["train", "other_drawing", "unseen_combination", "unseen_thing"]
  c.evals = ml_collections.ConfigDict()
  c.evals.other_drawing = dict(
      type="zeroshot",
      dataset="other_drawing",
      split="other_drawing",
      text=f"names/{langs[0]}",
      classes=names,
      **every,
  )
  for split in ("unseen_combination", "unseen_thing"):
    for lang in langs:
      name = split if lang == langs[0] else f"{split}_{lang}"
      c.evals[name] = dict(
          type="retrieval",
          dataset=name,
          split=split,
          text=f"names/{lang}",
          **every,
      )
  c.ckpt = dict(save_steps=max(arg.steps // 4, 1), keep=2)
  return c
