"""CLIP B/16: softmax loss, batch 32768, on 32 TPU v3 chips.

It follows the third row of the table in README.md, "The summary": the baseline
(CLIP B/16, 32 TPU v3, 12 days, 76.2 % ImageNet zero-shot, batch 32k). Unlike
SigLIP it has the softmax loss, no bias, and a temperature that starts at
1 / 0.07.
"""

import os

import ml_collections

from siglip_jax.config import named_data
from siglip_jax.config import parse_arg


def get_config(arg=None):
  arg = parse_arg(arg, **named_data.ARGS, res=224, text_len=64)
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.total_steps = 390_000  # 12.8 G examples, as in CLIP
  c.batch_size = 32_768
  c.microbatch = 0  # off
  c.image_size = arg.res
  c.text_len = arg.text_len  # 77 in CLIP, 64 here
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
  c.data = dict(**train)
  c.data.pp = (
      f"decode(near={c.image_size})|resize({c.image_size})|value_range(-1,1)"
      f'|{text}|keep("image", "text")'
  )
  c.data.max_replaced_share = 0.01
  c.data.num_threads = 16
  c.data.num_workers = 8
  c.preprocess = dict(
      image=f"decode|resize({c.image_size})|value_range(-1,1)", text=text
  )

  c.model = dict(
      image=dict(variant="B/16", pool_type="map"),
      text=dict(variant="B", vocab_size=32_000),
      out_dim=(None, 768),
      temperature_init=1 / 0.07,
      bias_init=None,
      dtype="bfloat16",
      scan=True,
      remat="full",
      attention="auto",  # fused on TPUs
  )
  # TPU matmuls round to bfloat16 anyway; doing it here halves the traffic.
  c.loss = dict(name="ring_softmax", dtype="bfloat16")
  c.optim = dict(
      name="adam",
      lr=1e-3,
      wd=1e-4,
      # b2=0.999 causes spikes (section 4.9).
      options=dict(b2=0.95, mu_dtype="bfloat16"),
      schedule=[(".*", dict(decay="cosine", warmup_steps=10_000))],
      clip_norm=1.0,
  )
  c.mesh = dict(data=-1, fsdp=1, tensor=1)
  c.sharding = [(".*", "fsdp")]
  c.evals = ml_collections.ConfigDict()
  c.evals.captions = dict(
      type="retrieval",
      dataset="captions",
      every_steps=10_000,
      **retrieval,
  )
  c.ckpt = dict(save_steps=1_000, keep=2)
  return c
