"""SigLIP S/16 from scratch on images with captions, wherever they are.

  configs/captions.py:tars="cc3m/{00000..00331}.tar",tokenizer=c4_en.model
  configs/captions.py:parquet=data/train-*.parquet,image=image,text=caption
  configs/captions.py:table=pairs.csv,image=filepath,text=title
  configs/captions.py:path=images
  configs/captions.py:name=coco_captions,data_dir=tfds,text=captions/text

docs/data.md says how to get there from a list of URLs. The data are divided
into train and validation by a hash, unless they have splits of their own. The
config follows no published row; the batch and the towers suit one accelerator.
For a CPU: `variant=mu/16,res=64,batch=64,dtype=float32`.
"""

import ml_collections

from siglip_jax.config import named_data
from siglip_jax.config import one_of
from siglip_jax.config import parse_arg

_WIDTHS = {"mu": 32, "Ti": 192, "S": 384, "M": 512, "B": 768, "L": 1024}


def get_config(arg=None):
  arg = parse_arg(
      arg,
      **named_data.ARGS,
      variant="S/16",  # of the image tower; the text tower has its width
      res=224,
      text_len=64,
      vocab=32_000,  # pieces of the tokenizer
      batch=1024,
      steps=40_000,  # 41 M examples, 14 epochs of CC3M
      lr=1e-3,
      dtype="bfloat16",
      threads=16,
      workers=0,  # worker processes of the loader; see siglip_jax.data.speed
  )
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.total_steps = arg.steps
  c.batch_size = arg.batch
  c.microbatch = 0
  c.image_size = arg.res
  c.text_len = arg.text_len
  c.log_steps = min(50, arg.steps)

  model = named_data.quoted(arg.tokenizer or "tokenizer.model")
  text = (
      f"lower|tokenize(max_len={arg.text_len}, model={model},"
      ' eos="sticky", pad_value=1)'
  )
  train, retrieval = named_data.sections(arg, default=dict(path="images"))
  c.data = dict(**train)
  c.data.pp = (
      f"decode(near={arg.res})|inception_crop({arg.res}, area_min=50)"
      f'|value_range(-1,1)|{text}|keep("image", "text")'
  )
  c.data.max_replaced_share = 0.01
  c.data.num_threads = arg.threads
  c.data.num_workers = arg.workers
  c.preprocess = dict(
      image=f"decode|resize({arg.res})|value_range(-1,1)", text=text
  )

  name = arg.variant.partition("/")[0]
  c.model = dict(
      image=dict(variant=arg.variant, pool_type="map"),
      text=dict(variant=name, vocab_size=arg.vocab),
      out_dim=(None, one_of("variant", name, _WIDTHS)),
      temperature_init=10.0,
      bias_init=-10.0,
      dtype=arg.dtype,
      scan=True,
      remat="none",
      attention="auto",
  )
  c.loss = dict(name="ring_sigmoid")
  c.optim = dict(
      name="adam",
      lr=arg.lr,
      wd=1e-4,
      options=dict(b2=0.95),  # 0.999 causes spikes (section 4.9)
      schedule=[(".*", dict(decay="cosine", warmup_percent=0.05))],
      clip_norm=1.0,
  )
  c.mesh = dict(data=-1)
  c.sharding = [(".*", "replicate")]
  c.evals = ml_collections.ConfigDict()
  if arg.val_split:
    c.evals.captions = dict(
        type="retrieval",
        dataset="captions",
        every_steps=max(arg.steps // 10, 1),
        **retrieval,
    )
  c.ckpt = dict(save_steps=max(arg.steps // 20, 1), keep=2)
  return c
