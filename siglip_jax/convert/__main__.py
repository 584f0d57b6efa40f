"""python -m siglip_jax.convert SRC DST --to=big_vision|transformers.

SRC is the workdir of a run, big_vision's .npz or a transformers folder; DST an
.npz or a folder, which appears when it is whole.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import os
from pathlib import Path
import shutil

from absl import flags
import jax
import numpy as np

from siglip_jax import cli
from siglip_jax import files
from siglip_jax import tree
from siglip_jax.data import preprocess
from siglip_jax.errors import UserError
from siglip_jax.models import zoo
from siglip_jax.weights import big_vision
from siglip_jax.weights import hf_config
from siglip_jax.weights import hf_processor
from siglip_jax.weights import hf_tokenizer
from siglip_jax.weights import layouts
from siglip_jax.weights import transformers

_TO = flags.DEFINE_enum(
    "to", None, ["big_vision", "transformers"], "What to write."
)
_MODEL = flags.DEFINE_string("model", None, "The released model SRC must be.")
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", None, "Tokenizer, which no .npz has."
)
_IMAGE = flags.DEFINE_string(
    "image", None, "Preprocessing string of images, instead of SRC's own."
)
_TEXT = flags.DEFINE_string(
    "text", None, "Preprocessing string of texts, instead of SRC's own."
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None, "Side of the images, of an .npz of no released model."
)
_FORCE = flags.DEFINE_bool("force", False, "Replace DST.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
  """What SRC holds; what an .npz does not say is None.

  Attributes:
    params: nested dict, big_vision's names.
    image_size: side of the images, pixels.
    image: preprocessing string of images.
    text: preprocessing string of texts.
    tokenizer: the tokenizer's file.
    variant: the released model that it is, if it is one.
  """

  params: dict
  image_size: int | None = None
  image: str | None = None
  text: str | None = None
  tokenizer: os.PathLike | None = None
  variant: zoo.Variant | None = None


def main(argv: Sequence[str]) -> None:
  """Reads SRC, checks it, writes DST."""
  if len(argv) != 3 or not _TO.value:
    raise UserError(
        "Give a source, a destination and a format: SRC DST"
        " --to=big_vision|transformers."
    )
  source, target = argv[1], Path(argv[2])
  if "://" in argv[2]:
    raise UserError(f"The destination must be a local path; got {argv[2]}.")
  if target.exists():
    _check_may_replace(target, source)
  found = read(source, zoo.get(_MODEL.value) if _MODEL.value else None)
  _check_finite(found.params, source)
  if _TO.value == "big_vision":
    params = layouts.unrolled(found.params)
    _replace(target, lambda part: big_vision.write(part, params))
  else:
    _replace(target, lambda part: _write_folder(part, found))
  print(f"{target}: {_TO.value}, from {source}")


def _check_may_replace(target: Path, source: str) -> None:
  if not _FORCE.value:
    raise UserError(f"{target} is there already: give --force to replace it.")
  if target.resolve() == Path(source).resolve():
    raise UserError(f"{target} is the source: give another destination.")
  if (
      target.is_dir()
      and any(target.iterdir())
      and not transformers.is_folder(target)
  ):
    raise UserError(
        f"{target} is a folder, and none of transformers, so --force does not"
        " replace it: remove it, or give another destination."
    )


def _check_finite(params: Mapping, source: str) -> None:
  for name, x in tree.flatten(params).items():
    if not np.isfinite(x).all():
      raise UserError(
          f"{source}: weights must be finite; {name} has numbers that are not."
          " Take another copy, or an earlier checkpoint."
      )


def read(path: str, wanted: zoo.Variant | None = None) -> Source:
  """Reads any of the three kinds.

  Args:
    path: local, or of a file system.
    wanted: the released model that it must be.

  Raises:
    UserError: it is none of them, or not that model.
  """
  found = files.find(path, what="a workdir, an .npz or a transformers folder")
  if (found / "checkpoints").is_dir():
    return _workdir(Path(path), wanted)
  if found.is_dir():
    r = transformers.read(found, variant=wanted)
    return Source(
        params=r.params,
        image_size=r.image_size,
        image=r.image,
        text=r.text,
        tokenizer=r.tokenizer,
        variant=None if r.naflex else zoo.identify(r.params),
    )
  params = big_vision.read(found)
  if wanted is not None:
    wanted.check(params)
  variant = wanted or zoo.identify(params)
  if variant is None:
    return Source(params=params)
  # As the released conversions do it, which transformers can.
  return Source(
      params=params,
      image_size=variant.image_size,
      image=variant.transformers.image,
      text=variant.transformers.text,
      variant=variant,
  )


def _workdir(path: Path, wanted: zoo.Variant | None) -> Source:
  # Only runs need devices, and what restores on them.
  from siglip_jax import inference

  model = inference.load(path)
  if wanted is not None:
    wanted.check(model.params)
  return Source(
      params=jax.device_get(model.params),
      image_size=model.spec["image_size"],
      image=model.spec["image"],
      text=model.spec["text"],
      tokenizer=path / "tokenizer.model",
  )


def _write_folder(folder: Path, source: Source) -> None:
  image = _given("image", _IMAGE.value or source.image)
  text = _given("text", _TEXT.value or source.text)
  side = _given("image_size", _IMAGE_SIZE.value or source.image_size)
  tokenizer = _TOKENIZER.value or source.tokenizer
  variant = source.variant
  published = variant.tokenizer_places if variant else None
  options = preprocess.tokenize_options(text)
  flat = tree.flatten(layouts.unrolled(source.params))
  sizes = hf_config.of_params(flat, side)["text_config"]
  length, rows = sizes["max_position_embeddings"], sizes["vocab_size"]
  if options["max_len"] != length:
    raise UserError(
        f"Texts must be tokenized to the {length} positions of the model; got"
        f" max_len={options['max_len']} in {text!r}. Change --text."
    )
  if tokenizer is None and not _TEXT.value:
    where = f": it is published as {published}" if published else ""
    raise UserError(
        f"The weights come without a tokenizer: give --tokenizer{where}."
    )
  pp = preprocess.Preprocess(
      text, tokenizer_path=tokenizer, published=published
  )
  assert pp.tokenizer is not None, "of tokenize"
  of = pp.tokenizer
  # With a --text of one's own one may have a tokenizer of one's own.
  if variant and not _TEXT.value and (_TOKENIZER.value or _MODEL.value):
    variant.check_tokenizer(of.path, pieces=of.vocab_size, digest=of.digest)
  if not zoo.has_rows_for(rows, of.vocab_size):
    raise UserError(
        f"The model was trained with a tokenizer of at most {rows} pieces;"
        f" {of.path} has {of.vocab_size}. Give its own with --tokenizer."
    )
  transformers.write(
      folder,
      source.params,
      image_size=side,
      eos_id=of.eos_id,
      pad_id=options["pad_value"],
  )
  hf_processor.write(folder, image, side)
  hf_tokenizer.write(folder, pp)


def _given(name: str, value):
  if value is None:
    raise UserError(
        "The .npz is no released model's, so it does not say how to prepare"
        f" images and texts: give --{name}."
    )
  return value


def _replace(target: Path, write: Callable[[Path], None]) -> None:
  """Writes beside the target, then moves it there; failures leave nothing."""
  part, old = (
      target.with_name(f".{target.name}.{end}") for end in ("part", "old")
  )
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
    for path in (part, old):
      _remove(path)
    write(part)
  except BaseException as e:
    with contextlib.suppress(OSError):
      _remove(part)
    if isinstance(e, OSError):
      raise UserError(f"{target} cannot be written: {e}.") from None
    raise
  if target.exists():
    target.rename(old)
  part.rename(target)
  _remove(old)


def _remove(path: Path) -> None:
  if path.is_dir():
    shutil.rmtree(path)
  else:
    path.unlink(missing_ok=True)


if __name__ == "__main__":
  cli.run(main, arguments=True)
