"""LiT on emoji: a new text tower for a locked image tower.

The image tower learned from English names. The text tower learns names in
another script, from scratch. The config follows no published row: it is
locked-image tuning (arXiv 2111.07991) as SigLIP does it (section 4.2), at a
size that learns in a minute. `make lit` runs it after `make train`, and for
comparison also trains both towers from scratch.

`:embeddings=DIR` trains on images that were encoded once. DIR holds one folder
for each split, written by `python -m siglip_jax.embed`. The learning rate, and
plain rather than augmented images, were chosen on images held out of `train`,
with a tower that had not seen those images either.
"""

import os

import ml_collections

from siglip_jax.config import parse_arg

SPLITS = ("other_drawing", "unseen_combination", "unseen_thing")


def get_config(arg=None):
  arg = parse_arg(
      arg, tower="runs/emoji", embeddings="", lang="ja", steps=2_000, side=48
  )
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.total_steps = arg.steps
  c.batch_size = 256  # without an image tower, larger batches cost little
  c.microbatch = 0
  c.image_size = arg.side  # pixels
  c.text_len = 16  # tokens; Japanese names take 4, 1 in 100 over 11
  c.log_steps = 100

  data_dir = os.environ.get("TFDS_DATA_DIR", "data")
  emoji = dict(name="emoji", data_dir=data_dir)
  model = f"{data_dir}/emoji/1.0.0/tokenizer.model"
  text = (
      f'lower|tokenize(max_len=16, model="{model}", eos="sticky", pad_value=1)'
  )
  names = f'choice("names/{arg.lang}", outkey="text")|{text}'
  # No augmentation: the tower has already learned what does not matter.
  image = f"decode|resize({c.image_size})|value_range(-2,0)"
  c.preprocess = dict(image=image, text=text)
  if arg.embeddings:
    c.data = dict(embeddings=f"{arg.embeddings}/train", split="train")
    c.data.pp = f'pick_crop|{names}|keep("image", "text")'
  else:
    c.data = dict(**emoji, split="train")
    c.data.pp = f'{image}|{names}|keep("image", "text")'
  c.data.max_replaced_share = 0.01
  c.data.num_threads = 2
  c.data.cache_mb = 100  # enough for all images

  c.model = dict(
      image=dict(
          width=128,
          depth=4,
          mlp_dim=512,
          num_heads=2,
          patch=16,
          pool_type="gap",
      ),
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
      bias_init=-5.0,  # about -log(batch_size)
  )
  c.loss = dict(name="ring_sigmoid")
  learn = dict(decay="cosine", warmup_percent=0.03)
  c.optim = dict(
      name="adam",
      lr=3e-3,
      wd=1e-4,
      options=dict(b2=0.99),
      lr_mults=[("t|b", 5.0), (".*", 1.0)],  # t, b must move far in few steps
      schedule=[(".*", learn)],
      clip_norm=1.0,
  )
  if arg.embeddings:
    c.model.embedded = True
  else:
    c.init = dict(img=dict(path=arg.tower, dont_load=()))
    c.optim.schedule = [
        # Locked. To unlock it for the last fifth of the steps instead, without
        # weight decay on pretrained weights, write
        # dict(decay="cosine", delay_percent=0.8) here and
        # wd_mults=[("img/.*", 0.0), (".*/kernel", 1.0), (".*", 0.0)].
        ("img/.*", None),
        (".*", learn),
    ]
  c.mesh = dict(data=-1, fsdp=1, tensor=1)
  c.sharding = [(".*", "fsdp")]

  c.evals = ml_collections.ConfigDict()
  for split in SPLITS:
    c.evals[split] = dict(
        type="retrieval",
        dataset=split,
        split=split,
        text=f"names/{arg.lang}",
        every_steps=max(arg.steps // 4, 1),
        **emoji,
    )
    if arg.embeddings:
      c.evals[split].embeddings = f"{arg.embeddings}/{split}"
  c.evals.other_drawing.type = "zeroshot"
  c.evals.other_drawing.classes = ["train", *SPLITS]
  c.ckpt = dict(save_steps=max(arg.steps // 4, 1), keep=2)
  return c
