"""The default run: a small SigLIP on emoji and their names, on two CPU cores.

It follows no published row: SigLIP's loss and towers (arXiv 2303.15343) at a
size that learns in minutes. `configs/emoji.py:steps=8000` trains for an hour.
"""

import os

import ml_collections

from siglip_jax.config import parse_arg


def get_config(arg=None):
  arg = parse_arg(arg, steps=2400, langs="en", side=48)
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.total_steps = arg.steps
  c.batch_size = 32  # steps matter more here than large batches
  c.microbatch = 0
  c.image_size = arg.side  # pixels
  c.text_len = 16  # tokens; three English names are cut to another's
  c.log_steps = 100

  data_dir = os.environ.get("TFDS_DATA_DIR", "data")
  langs = arg.langs.split("+")
  model = f"{data_dir}/emoji/1.0.0/tokenizer.model"
  text = (
      f'lower|tokenize(max_len=16, model="{model}", eos="sticky", pad_value=1)'
  )
  picked = ", ".join(f'"names/{lang}"' for lang in langs)
  emoji = dict(name="emoji", data_dir=data_dir)

  c.data = dict(**emoji, split="train")
  # Never mirrored: some names say left or right.
  c.data.pp = (
      f"decode|resize({c.image_size})|affine(8, 0.04, 0.85, 1.05)"
      f"|color_jitter(0.15, 0.0, 0.3)|value_range(-1,1)"
      f'|choice({picked}, outkey="text")|{text}|keep("image", "text")'
  )
  c.data.max_replaced_share = 0.01
  c.data.num_threads = 2
  c.preprocess = dict(
      image=f"decode|resize({c.image_size})|value_range(-1,1)", text=text
  )

  c.model = dict(
      image=dict(
          width=128,
          depth=4,
          mlp_dim=512,
          num_heads=2,
          patch=16,
          pool_type="map",
      ),
      text=dict(width=128, depth=2, mlp_dim=512, num_heads=2, vocab_size=8000),
      out_dim=(None, 128),
      temperature_init=10.0,
      bias_init=-3.5,  # about -log(batch_size); the paper's -10 suits 32k
  )
  c.loss = dict(name="ring_sigmoid")
  c.optim = dict(
      name="adam",
      lr=1e-3,
      wd=1e-4,
      options=dict(b2=0.95),  # 0.999 spikes at large batch
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
