"""SigLiT: ViT-B/8 locked, 12-layer L text tower, batch 32768, four v4 chips.

It follows the paper's own 79.7 % row (1 day): a locked public ViT-AugReg-B/8; a
text tower of width L with 12 layers; Lion with weight decay 1e-7; 65k steps, of
which 6.5k warm up to 1e-4, followed by a cosine to 0. The data differ.

`tower=WEIGHTS` runs the locked tower in every step. To run it only once, as the
paper did, pass `--config=configs/b8_lit.py:tower=WEIGHTS` to
`python -m siglip_jax.embed`, first with --split=train --out=DIR and then with
--split=validation --out=OTHER. Then train with
`configs/b8_lit.py:embeddings=DIR,eval_embeddings=OTHER`.
"""

import os

import ml_collections

from siglip_jax.config import named_data
from siglip_jax.config import parse_arg


def get_config(arg=None):
  arg = parse_arg(
      arg,
      **named_data.ARGS,
      res=224,
      text_len=16,
      tower="",  # weights of the locked tower, for config.init
      embeddings="",  # folder that `siglip_jax.embed` wrote for training
      eval_embeddings="",  # the same for the validation split
  )
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.total_steps = 65_000
  c.batch_size = 32_768
  c.microbatch = 0 if arg.embeddings else 2048
  c.image_size = arg.res
  c.text_len = arg.text_len  # 16 in the ablations, 64 in the released models
  c.log_steps = 50

  data_dir = os.environ.get("TFDS_DATA_DIR", "data")
  model = named_data.quoted(arg.tokenizer or f"{data_dir}/c4_en.model")
  text = (
      f"lower|tokenize(max_len={c.text_len}, model={model},"
      ' eos="sticky", pad_value=1)'
  )
  train, retrieval = named_data.sections(
      arg, default=dict(name="captions", data_dir=data_dir)
  )
  if arg.embeddings:
    c.data = dict(embeddings=arg.embeddings, split="train")
    image = "pick_crop"
  else:
    c.data = dict(**train)
    side = c.image_size
    image = f"decode(near={side})|resize({side})|value_range(-1,1)"
  c.data.pp = f'{image}|{text}|keep("image", "text")'
  c.data.max_replaced_share = 0.01
  c.data.num_threads = 16
  c.data.num_workers = 8
  c.preprocess = dict(
      image=f"decode|resize({c.image_size})|value_range(-1,1)", text=text
  )

  c.model = dict(
      image=dict(variant="B/8", pool_type="tok"),
      text=dict(variant="L", depth=12, vocab_size=32_000),
      out_dim=(None, 768),
      temperature_init=10.0,
      bias_init=-10.0,
      dtype="bfloat16",
      scan=True,
      remat="full" if arg.embeddings else "none",
      attention="auto",  # fused on TPUs
      embedded=bool(arg.embeddings),
  )
  # TPU matmuls round to bfloat16 anyway; doing it here halves the traffic.
  c.loss = dict(name="ring_sigmoid", dtype="bfloat16")
  c.optim = dict(
      name="lion",
      lr=1e-4,
      wd=1e-7,
      options=dict(mu_dtype="bfloat16"),
      schedule=[(".*", dict(decay="cosine", warmup_steps=6_500))],
      clip_norm=1.0,
  )
  if not arg.embeddings:
    # The locked tower needs no gradient and no optimizer memory.
    c.optim.schedule.insert(0, ("img/.*", None))
  if arg.tower:
    c.init = dict(img=dict(path=arg.tower))
  c.mesh = dict(data=-1, fsdp=1, tensor=1)
  c.sharding = [(".*", "fsdp")]
  c.evals = ml_collections.ConfigDict()
  if arg.eval_embeddings:
    retrieval = dict(embeddings=arg.eval_embeddings, split="validation")
  # Without an image tower, only stored embeddings can be evaluated.
  if arg.eval_embeddings or not arg.embeddings:
    c.evals.captions = dict(
        type="retrieval",
        dataset="captions",
        every_steps=10_000,
        **retrieval,
    )
  c.ckpt = dict(save_steps=1_000, keep=2)
  return c
