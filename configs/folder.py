"""Training on a folder of your own images: configs/folder.py:path=my_images.

Captions are in a .txt beside each image, or in a captions.jsonl. Train the
tokenizer first:
`python -m siglip_jax.data.tokenizer --path=my_images --out=tokenizer.model`.
The config follows no published row; its towers are small enough for a CPU.
"""

import ml_collections

from siglip_jax.config import parse_arg


def get_config(arg=None):
  arg = parse_arg(
      arg,
      path="images",
      tokenizer="tokenizer.model",
      steps=1000,
      batch=64,
      res=64,
  )
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.total_steps = arg.steps
  c.batch_size = arg.batch
  c.microbatch = 0
  c.image_size = arg.res
  c.text_len = 32
  c.log_steps = min(20, arg.steps)

  text = (
      f'lower|tokenize(max_len=32, model="{arg.tokenizer}", eos="sticky",'
      " pad_value=1)"
  )
  c.data = dict(path=arg.path, split="train")
  c.data.pp = (
      f"decode(near={arg.res})|inception_crop({arg.res}, area_min=40)"
      f'|value_range(-1,1)|{text}|keep("image", "text")'
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
  )
  c.loss = dict(name="ring_sigmoid")
  c.optim = dict(
      lr=1e-3,
      wd=1e-4,
      schedule=[(".*", dict(decay="cosine", warmup_percent=0.1))],
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
