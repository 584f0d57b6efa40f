"""Small real things to test with."""

import io
import json
from pathlib import Path
import textwrap

import numpy as np
from PIL import Image

from siglip_jax.multihost.messages import Peers

COLORS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (40, 70, 220),
    "yellow": (230, 210, 50),
    "white": (250, 250, 250),
    "black": (5, 5, 5),
}


class ListSource:
  """Records from a list."""

  def __init__(self, records):
    self._records = records

  def __len__(self):
    return len(self._records)

  def __getitem__(self, index):
    return self._records[index]

  def key(self, index):
    return f"record {index}"


def png(color, size=16):
  """A plain image."""
  out = io.BytesIO()
  Image.new("RGB", (size, size), color).save(out, format="png")
  return out.getvalue()


def ramp(h, w, channels=3):
  """Pixels of which no two neighbours are equal."""
  pixels = np.arange(h * w * channels) % 251
  return pixels.astype(np.uint8).reshape(h, w, channels)


def captioned_folder(folder: Path, count: int = 48) -> Path:
  """Plain images of a few colors, with captions."""
  folder.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(0)
  for i in range(count):
    name, color = list(COLORS.items())[i % len(COLORS)]
    noisy = np.clip(np.array(color) + rng.integers(-20, 20, 3), 0, 255)
    (folder / f"{i:03d}.png").write_bytes(png(tuple(int(c) for c in noisy)))
    (folder / f"{i:03d}.txt").write_text(f"a {name} image number {i % 3}")
  return folder


class PerfectEncoder:
  """Finds every text of a source by construction: one axis a text."""

  temperature, bias = 10.0, -5.0

  def __init__(self, texts):
    self._axes = {t: i for i, t in enumerate(sorted(set(texts)))}

  def encode_texts(self, texts):
    return np.eye(len(self._axes), dtype=np.float32)[
        [self._axes[t] for t in texts]
    ]

  def encode_source(self, source):
    return self.encode_texts([source[i]["text"] for i in range(len(source))])


class BoardPeers(Peers):
  """Processes that are threads, and speak through a dict."""

  def __init__(self, board: dict, index: int, count: int):
    super().__init__()
    self.index, self.count, self._board = index, count, board

  def tell(self, topic, value):
    self._board.setdefault(topic, {})[self.index] = json.loads(
        json.dumps(value)
    )

  def hear(self, topic):
    return dict(self._board.get(topic, {}))


def tiny_config(folder: Path, tokenizer: Path) -> str:
  """Source of a config that trains in seconds on `captioned_folder`."""
  return textwrap.dedent(f"""
      import ml_collections

      def get_config(arg=None):
        c = ml_collections.ConfigDict()
        c.seed, c.total_steps, c.batch_size, c.microbatch = 0, 12, 8, 0
        c.image_size, c.text_len, c.log_steps = 16, 8, 1
        text = 'lower|tokenize(max_len=8, model="{tokenizer}")'
        c.data = dict(path="{folder}", split="train", max_replaced_share=0.2)
        c.data.pp = (
            "decode|affine()|resize(16)|value_range(-1,1)|" + text
            + '|keep("image","text")'
        )
        c.preprocess = dict(
            image="decode|resize(16)|value_range(-1,1)", text=text
        )
        c.model = dict(
            image=dict(width=32, depth=1, mlp_dim=64, num_heads=2, patch=8),
            text=dict(
                width=32, depth=1, mlp_dim=64, num_heads=2, vocab_size=400
            ),
            out_dim=(None, 32),
            bias_init=-2.0,
        )
        c.loss = dict(name="ring_sigmoid")
        c.optim = dict(
            lr=3e-3, wd=1e-4, clip_norm=1.0,
            schedule=[(".*", dict(decay="cosine", warmup_steps=2))],
        )
        c.mesh = dict(data=-1, fsdp=1, tensor=1)
        c.sharding = [(".*", "fsdp")]
        c.evals = dict(colors=dict(
            type="zeroshot", dataset="colors", path="{folder}",
            split="validation", text="text", classes=["train"], every_steps=5,
        ))
        c.ckpt = dict(save_steps=4, keep=2)
        c.watchdog = dict(
            peer_seconds=60.0, step_seconds=600.0, data_seconds=600.0
        )
        c.profile = dict(steps=())
        return c
  """)


def waiting_config(config: Path, target: Path, go: Path) -> Path:
  """Writes a config whose run waits before its seventh step for a file."""
  code = textwrap.dedent(f"""
      import pathlib, time
      from siglip_jax.data import prefetch
      to_device = prefetch.to_device
      def waits(*args):
        for i, batch in enumerate(to_device(*args)):
          while i == 6 and not pathlib.Path({str(go)!r}).exists():
            time.sleep(0.01)
          yield batch
      prefetch.to_device = waits
  """)
  target.write_text(code + config.read_text())
  return target


def tiny(folder: Path, tokenizer: Path):
  """The config that `tiny_config` is the source of."""
  names: dict = {}
  exec(tiny_config(folder, tokenizer), names)
  return names["get_config"]()
