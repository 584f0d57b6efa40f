"""The released SigLIP and SigLIP 2 models by name.

Sizes, tokenizers and file names come from big_vision's demo notebooks; the
tokenizers' locations come from its text preprocessing.

Two preprocessing conventions are in use. big_vision lower-cases A to Z, ignores
transparency and resizes without antialiasing. transformers lower-cases all
text, strips punctuation for SigLIP 1, puts images on white and resizes with
antialiasing. Both map bytes to [-1, 1].
"""

from collections.abc import Mapping
import dataclasses
import difflib
import functools
import math
import os
from typing import Any

from siglip_jax import tree
from siglip_jax.errors import UserError
from siglip_jax.models import vit
from siglip_jax.models.two_towers import TwoTowers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
  """A preprocessing convention, and where its files are published.

  Attributes:
    image: preprocessing string for images.
    text: preprocessing string for texts. Its `model` argument names a
      tokenizer, not a file; pass the file as `tokenizer_path`.
    weights: location of the published weights.
    tokenizer: location of the published tokenizer.
  """

  image: str
  text: str
  weights: str
  tokenizer: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
  """A released model.

  Attributes:
    name: name of the model, as listed by `names`.
    model: keyword arguments of `TwoTowers`.
    image_size: side of the images, in pixels.
    text_len: number of tokens per text.
    tokenizer: "c4_en", "mc4" or "gemma".
    tokenizer_sha256: SHA-256 of the tokenizer file; None if its number of
      pieces is enough to recognise it.
    big_vision: convention of the original release.
    transformers: convention of the conversion for transformers.
  """

  name: str
  model: Mapping[str, Any]
  image_size: int
  text_len: int
  tokenizer: str
  tokenizer_sha256: str | None = None
  big_vision: Recipe
  transformers: Recipe

  @property
  def tokenizer_places(self) -> str:
    """The locations where the tokenizer is published, as words."""
    return f"{self.big_vision.tokenizer}, and {self.transformers.tokenizer}"

  @functools.cached_property
  def num_params(self) -> int:
    """The number of parameters: both towers, temperature and bias."""
    return sum(math.prod(shape) for shape in self.shapes.values())

  @functools.cached_property
  def shapes(self) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter by name, blocks stacked for a scan."""
    side = self.image_size
    model = TwoTowers(**self.model, scan=True)
    params = model.shapes((side, side, 3), self.text_len)
    return {name: x.shape for name, x in tree.flatten(params).items()}

  def check_tokenizer(
      self, path: os.PathLike | str, *, pieces: int, digest: str
  ) -> None:
    """Checks that a tokenizer is this model's.

    Args:
      path: path of the tokenizer file.
      pieces: number of pieces of the tokenizer.
      digest: SHA-256 of the file, in hexadecimal.

    Raises:
      UserError: the tokenizer is not this model's.
    """
    rows = self.model["text"]["vocab_size"]
    expected, actual = f"of {rows} pieces", f"has {pieces}"
    matches = pieces >= rows and has_rows_for(rows, pieces)
    if matches and self.tokenizer_sha256:
      expected += f" and sha256 {self.tokenizer_sha256[:12]}..."
      actual = f"has sha256 {digest[:12]}..."
      matches = digest == self.tokenizer_sha256
    if not matches:
      raise UserError(
          f"{self.name} needs the tokenizer {self.tokenizer}, {expected};"
          f" {path} {actual}. The right one is published as"
          f" {self.tokenizer_places}."
      )

  def check(self, params: Mapping) -> None:
    """Raises UserError if parameters are another model's; names that model."""
    actual = _shapes(params)
    if actual == self.shapes:
      return
    other = identify(params)
    if other is not None:
      raise UserError(
          f"These weights are {other.name}'s, not {self.name}'s: load them as"
          f" {other.name!r}."
      )
    raise UserError(
        f"These weights are not {self.name}'s, nor any released model's:"
        f" {_difference(self.shapes, actual)}."
    )


def names() -> list[str]:
  """Returns the names of all released models."""
  return list(_VARIANTS)


def get(name: str) -> Variant:
  """Returns the released model of this name.

  Raises:
    UserError: the model is unknown; the message may suggest a similar name.
  """
  if name not in _VARIANTS:
    close = difflib.get_close_matches(name, _VARIANTS, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UserError(
        f"There is no released model {name!r}; {hint}known are"
        f" {', '.join(_VARIANTS)}."
    )
  return _VARIANTS[name]


def identify(params: Mapping) -> Variant | None:
  """Returns the released model with these names and shapes, or None."""
  actual = _shapes(params)
  for variant in _VARIANTS.values():
    # `variant.shapes` traces the model, which is slow; compare sizes from the
    # table first, as they rule out most variants.
    if actual.get("txt/pos_embedding", ())[1:2] != (variant.text_len,):
      continue
    rows = variant.model["text"]["vocab_size"]
    patch = int(variant.model["image"]["variant"].partition("/")[2])
    tokens = (variant.image_size // patch) ** 2
    if (
        actual.get("txt/Embed_0/embedding", ())[:1] == (rows,)
        and actual.get("img/embedding/kernel", ())[:1] == (patch,)
        and actual.get("img/pos_embedding", ())[1:2] == (tokens,)
        and actual == variant.shapes
    ):
      return variant
  return None


def has_rows_for(rows: int, pieces: int) -> bool:
  """Whether the embedding has a row for every piece that can occur in a text.

  Args:
    rows: number of rows of the embedding.
    pieces: number of pieces of the tokenizer, including pieces that occur in no
      text.
  """
  return pieces <= rows + _EXTRA_PIECES.get(rows, 0)


def _shapes(params: Mapping) -> dict[str, tuple[int, ...]]:
  """Returns shapes as `Variant.shapes` does, for stacked or unrolled blocks."""
  shapes: dict[str, tuple[int, ...]] = {}
  depths: dict[str, int] = {}
  for name, x in tree.flatten(params).items():
    shape = tuple(x.shape)
    before, mark, after = name.partition("/encoderblock_")
    if mark:
      name = f"{before}/encoderblock/{after.partition('/')[2]}"
      depths[name] = depths.get(name, 0) + 1
      shape = (depths[name], *shape)
    shapes[name] = shape
  return shapes


def _difference(expected: Mapping, actual: Mapping) -> str:
  for name in sorted(expected.keys() | actual.keys()):
    a, b = expected.get(name), actual.get(name)
    if a != b:
      return f"{name} should be {a or 'absent'}, got {b or 'none'}"
  return "they agree"


_IMAGE = "{decode}|resize({size}, {method})|value_range(-1, 1)"
_BIG_VISION_TEXT = (
    "lower('ascii')|tokenize(max_len={len}, model='{tokenizer}', eos='sticky',"
    " pad_value={pad})"
)
_SIGLIP_TEXT = (
    "lower|strip_punctuation|tokenize(max_len={len}, model='{tokenizer}',"
    " eos='sticky', pad_value={pad}, space='marked')"
)
_SIGLIP2_TEXT = (
    "lower('characters')|tokenize(max_len={len}, model='{tokenizer}',"
    " eos='sticky', pad_value={pad})"
)
# Tokenizer -> (embedding rows, padding id, big_vision's location of the file,
# SHA-256). T5, Llama and others also have 32,000 pieces, so for that size only
# the SHA-256 tells the tokenizers apart.
_TOKENIZERS = {
    "c4_en": (
        32_000,
        1,
        "gs://t5-data/vocabs/cc_en.32000/sentencepiece.model",
        "1e5036bed065526c3c212dfbe288752391797c4bb1a284aa18c9a0b23fcaf8ec",
    ),
    "mc4": (
        250_000,
        1,
        "gs://t5-data/vocabs/mc4.250000.100extra/sentencepiece.model",
        None,
    ),
    "gemma": (256_000, 0, "gs://big_vision/gemma_tokenizer.model", None),
}
# Embedding rows -> number of extra pieces a tokenizer file may list that occur
# in no text: mC4's 100 sentinels, or named special tokens in a tokenizer.json.
_EXTRA_PIECES = {250_000: 100, 256_000: 100}


def _variant(
    name: str,
    sizes: str,
    image_size: int,
    weights: str,
    repository: str,
    *,
    tokenizer: str,
    text_len: int = 64,
) -> Variant:
  """Returns one row of the table below."""
  kind, _, patch = sizes.partition("/")
  width = vit.sizes(kind)["width"]
  vocab_size, pad, location, digest = _TOKENIZERS[tokenizer]
  image: dict[str, Any] = dict(variant=sizes)
  if image_size % int(patch):
    image["ragged"] = True
  siglip2 = tokenizer == "gemma"
  fields = {"len": text_len, "tokenizer": tokenizer, "pad": pad}
  text = _SIGLIP2_TEXT if siglip2 else _SIGLIP_TEXT
  file = "tokenizer.json" if siglip2 else "spiece.model"
  # SigLIP 2's conversions resize bilinearly, as in training; SigLIP's do not.
  method = "method='bilinear'" if siglip2 else "method='bicubic'"
  return Variant(
      name=name,
      model=dict(
          image=image,
          text=dict(
              # g-opt, the largest image tower, has a So400m text tower.
              variant="So400m" if kind == "g-opt" else kind,
              vocab_size=vocab_size,
          ),
          out_dim=(None, width),
          bias_init=-10.0,
      ),
      image_size=image_size,
      text_len=text_len,
      tokenizer=tokenizer,
      tokenizer_sha256=digest,
      big_vision=Recipe(
          image=_IMAGE.format(
              decode="decode(alpha='ignore')",
              size=image_size,
              method="antialias=False",
          ),
          text=_BIG_VISION_TEXT.format(**fields),
          weights=f"gs://big_vision/{weights}.npz",
          tokenizer=location,
      ),
      transformers=Recipe(
          image=_IMAGE.format(decode="decode", size=image_size, method=method),
          text=text.format(**fields),
          weights=f"google/{repository} on the Hugging Face Hub",
          tokenizer=f"{file} of google/{repository} on the Hugging Face Hub",
      ),
  )


def _siglip(sizes: str, image_size: int, file: str, **kwargs) -> Variant:
  """Returns an English SigLIP model."""
  return _variant(
      f"siglip-{_short(sizes)}-{image_size}",
      sizes,
      image_size,
      f"siglip/webli_en_{file}",
      f"siglip-{_long(sizes)}-{image_size}",
      tokenizer="c4_en",
      **kwargs,
  )


def _siglip2(sizes: str, image_size: int) -> Variant:
  """Returns a SigLIP 2 model."""
  return _variant(
      f"siglip2-{_short(sizes)}-{image_size}",
      sizes,
      image_size,
      f"siglip2/siglip2_{_short(sizes)}_{image_size}",
      f"siglip2-{_long(sizes)}-{image_size}",
      tokenizer="gemma",
  )


def _short(sizes: str) -> str:
  return sizes.lower().replace("/", "")


def _long(sizes: str) -> str:
  kind, _, patch = sizes.partition("/")
  kind = {"B": "base", "L": "large", "g-opt": "giant-opt"}.get(kind, kind)
  return f"{kind.lower()}-patch{patch}"


_VARIANTS = {
    v.name: v
    for v in (
        _siglip("B/16", 224, "b16_224_63724782"),
        _siglip("B/16", 256, "b16_256_60500360"),
        _siglip("B/16", 384, "b16_384_68578854"),
        _siglip("B/16", 512, "b16_512_68580893"),
        _siglip("L/16", 256, "l16_256_60552751"),
        _siglip("L/16", 384, "l16_384_63634585"),
        _siglip("So400m/14", 224, "so400m_224_57633886", text_len=16),
        _siglip("So400m/14", 384, "so400m_384_58765454"),
        _variant(
            "siglip-b16-i18n-256",
            "B/16",
            256,
            "siglip/webli_i18n_b16_256_66117334",
            "siglip-base-patch16-256-multilingual",
            tokenizer="mc4",
        ),
        _variant(
            "siglip-so400m16-i18n-256",
            "So400m/16",
            256,
            "siglip/webli_i18n_so400m_16_256_78061115",
            "siglip-so400m-patch16-256-i18n",
            tokenizer="mc4",
        ),
        _siglip2("B/32", 256),
        *(_siglip2("B/16", size) for size in (224, 256, 384, 512)),
        *(_siglip2("L/16", size) for size in (256, 384, 512)),
        *(_siglip2("So400m/14", size) for size in (224, 384)),
        *(_siglip2("So400m/16", size) for size in (256, 384, 512)),
        *(_siglip2("g-opt/16", size) for size in (256, 384)),
    )
}
