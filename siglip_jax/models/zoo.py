"""The released SigLIP and SigLIP 2 models by name.

Sizes, tokenizers and file names are those of big_vision's demo notebooks, the
tokenizers' places of its text operations. Two conventions of preprocessing are
in use. big_vision lower-cases A to Z, ignores transparency and resizes without
antialias; transformers lower-cases everything, strips punctuation for SigLIP 1,
puts images on white and resizes with antialias. Both map bytes to [-1, 1].
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
  """One convention of preprocessing, and where it keeps its files.

  Attributes:
    image: preprocessing string of images.
    text: preprocessing string of texts; `model` in it names a tokenizer, not a
      file: give the file as `tokenizer_path`.
    weights: where the weights are published.
    tokenizer: where the tokenizer is published.
  """

  image: str
  text: str
  weights: str
  tokenizer: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
  """A released model.

  Attributes:
    name: as in `names`.
    model: keyword arguments of `TwoTowers`.
    image_size: side of the images, pixels.
    text_len: tokens of a text.
    tokenizer: "c4_en", "mc4" or "gemma".
    tokenizer_sha256: of its file, where others of as many pieces are about.
    big_vision: its original convention.
    transformers: the convention of its conversion.
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
    """Where its tokenizer is published."""
    return f"{self.big_vision.tokenizer}, and {self.transformers.tokenizer}"

  @functools.cached_property
  def num_params(self) -> int:
    """Parameters of both towers, temperature and bias."""
    return sum(math.prod(shape) for shape in self.shapes.values())

  @functools.cached_property
  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter, blocks stacked for a scan."""
    side = self.image_size
    model = TwoTowers(**self.model, scan=True)
    params = model.shapes((side, side, 3), self.text_len)
    return {name: x.shape for name, x in tree.flatten(params).items()}

  def check_tokenizer(
      self, path: os.PathLike | str, *, pieces: int, digest: str
  ) -> None:
    """Raises UserError when a tokenizer is another model's.

    Args:
      path: of the file.
      pieces: of the tokenizer.
      digest: sha256 of the file.
    """
    rows = self.model["text"]["vocab_size"]
    wanted, found = f"of {rows} pieces", f"has {pieces}"
    right = pieces >= rows and has_rows_for(rows, pieces)
    if right and self.tokenizer_sha256:
      wanted += f" and sha256 {self.tokenizer_sha256[:12]}..."
      found = f"has sha256 {digest[:12]}..."
      right = digest == self.tokenizer_sha256
    if not right:
      raise UserError(
          f"{self.name} needs the tokenizer {self.tokenizer}, {wanted};"
          f" {path} {found}. The right one is published as"
          f" {self.tokenizer_places}."
      )

  def check(self, params: Mapping) -> None:
    """Raises UserError when parameters are another model's; names which."""
    found = _shapes(params)
    if found == self.shapes:
      return
    other = identify(params)
    if other is not None:
      raise UserError(
          f"These weights are {other.name}'s, not {self.name}'s: load them as"
          f" {other.name!r}."
      )
    raise UserError(
        f"These weights are not {self.name}'s, nor any released model's:"
        f" {_difference(self.shapes, found)}."
    )


def names() -> list[str]:
  """All released models."""
  return list(_VARIANTS)


def get(name: str) -> Variant:
  """The model of that name.

  Raises:
    UserError: there is none; says which it may have meant.
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
  """The released model that parameters have the names and shapes of."""
  found = _shapes(params)
  for variant in _VARIANTS.values():
    # Tracing a model takes a moment; most differ in what the table says.
    if found.get("txt/pos_embedding", ())[1:2] != (variant.text_len,):
      continue
    rows = variant.model["text"]["vocab_size"]
    patch = int(variant.model["image"]["variant"].partition("/")[2])
    tokens = (variant.image_size // patch) ** 2
    if (
        found.get("txt/Embed_0/embedding", ())[:1] == (rows,)
        and found.get("img/embedding/kernel", ())[:1] == (patch,)
        and found.get("img/pos_embedding", ())[1:2] == (tokens,)
        and found == variant.shapes
    ):
      return variant
  return None


def has_rows_for(rows: int, pieces: int) -> bool:
  """Whether each piece that a text may have has its row of the embedding.

  Args:
    rows: of the embedding.
    pieces: of the tokenizer, of which some may be in no text.
  """
  return pieces <= rows + _IN_NO_TEXT.get(rows, 0)


def _shapes(params: Mapping) -> dict[str, tuple[int, ...]]:
  """As `Variant.shapes`, of either layout."""
  found: dict[str, tuple[int, ...]] = {}
  depths: dict[str, int] = {}
  for name, x in tree.flatten(params).items():
    shape = tuple(x.shape)
    before, mark, after = name.partition("/encoderblock_")
    if mark:
      name = f"{before}/encoderblock/{after.partition('/')[2]}"
      depths[name] = depths.get(name, 0) + 1
      shape = (depths[name], *shape)
    found[name] = shape
  return found


def _difference(wanted: Mapping, found: Mapping) -> str:
  for name in sorted(wanted.keys() | found.keys()):
    a, b = wanted.get(name), found.get(name)
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
# Rows of the embedding, id of the padding, where big_vision finds the file. T5,
# Llama and others have 32,000 pieces, too, so there a digest tells them apart.
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
# Rows -> how many pieces more a file may have: mC4's has a hundred sentinels,
# and a tokenizer.json as many special tokens as someone gave names to.
_IN_NO_TEXT = {250_000: 100, 256_000: 100}


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
  """A row of the table below."""
  kind, _, patch = sizes.partition("/")
  width = vit.sizes(kind)["width"]
  vocab_size, pad, place, digest = _TOKENIZERS[tokenizer]
  image: dict[str, Any] = dict(variant=sizes)
  if image_size % int(patch):
    image["ragged"] = True
  second = tokenizer == "gemma"
  words = {"len": text_len, "tokenizer": tokenizer, "pad": pad}
  text = _SIGLIP2_TEXT if second else _SIGLIP_TEXT
  file = "tokenizer.json" if second else "spiece.model"
  # Of the conversions, only SigLIP 2's keep to bilinear, as in training.
  method = "method='bilinear'" if second else "method='bicubic'"
  return Variant(
      name=name,
      model=dict(
          image=image,
          text=dict(
              # The largest image tower is paired with a smaller text tower.
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
          text=_BIG_VISION_TEXT.format(**words),
          weights=f"gs://big_vision/{weights}.npz",
          tokenizer=place,
      ),
      transformers=Recipe(
          image=_IMAGE.format(decode="decode", size=image_size, method=method),
          text=text.format(**words),
          weights=f"google/{repository} on the Hugging Face Hub",
          tokenizer=f"{file} of google/{repository} on the Hugging Face Hub",
      ),
  )


def _siglip(sizes: str, image_size: int, file: str, **kwargs) -> Variant:
  """A model of the first generation, English."""
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
  """A model of the second generation."""
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
