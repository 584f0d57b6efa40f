"""python -m siglip_jax.convert SRC DST --to=big_vision|transformers.

SRC is a run's workdir, big_vision's .npz or a transformers folder. DST is an
.npz or a folder; it appears only when it is complete.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
from pathlib import Path
import shutil

from absl import flags
import numpy as np

from siglip_jax import cli
from siglip_jax import tree
from siglip_jax import weights as weights_lib
from siglip_jax.data import preprocess
from siglip_jax.errors import UserError
from siglip_jax.inference import flags as model_flags
from siglip_jax.models import zoo
from siglip_jax.weights import big_vision
from siglip_jax.weights import fits
from siglip_jax.weights import hf_config
from siglip_jax.weights import hf_processor
from siglip_jax.weights import hf_tokenizer
from siglip_jax.weights import layouts
from siglip_jax.weights import transformers


def define_flags() -> None:
  """Defines the flags of the command."""
  flags.DEFINE_enum(
      "to", None, ["big_vision", "transformers"], "Format to write."
  )
  flags.DEFINE_string("model", None, "Released model that SRC must be.")
  flags.DEFINE_string("tokenizer", None, "Tokenizer's file; an .npz has none.")
  flags.DEFINE_string(
      "image", None, "Preprocessing string of images, instead of SRC's own."
  )
  flags.DEFINE_string(
      "text", None, "Preprocessing string of texts, instead of SRC's own."
  )
  flags.DEFINE_integer(
      "image_size",
      None,
      "Side of the images in pixels, if SRC is an .npz that is not of a"
      " released model.",
  )
  model_flags.define_step()
  flags.DEFINE_bool("force", False, "Replace DST if it exists.")


def main(argv: Sequence[str]) -> None:
  """Reads SRC, checks it and writes DST."""
  if len(argv) != 3 or not flags.FLAGS.to:
    raise UserError(
        "Give a source, a destination and a format: SRC DST"
        " --to=big_vision|transformers."
    )
  source, target = argv[1], Path(argv[2])
  if "://" in argv[2]:
    raise UserError(f"The destination must be a local path; got {argv[2]}.")
  if target.exists():
    _check_may_replace(target, source)
  name = flags.FLAGS.model
  weights = weights_lib.read(
      source, variant=zoo.get(name) if name else None, step=flags.FLAGS.step
  )
  if weights.kind == "workdir":
    fits.check_run(weights)
  _check_finite(weights.params, weights.origin)
  if flags.FLAGS.to == "big_vision":
    params = layouts.unrolled(weights.params)
    _replace(target, lambda part: big_vision.write(part, params))
  else:
    _replace(target, lambda part: _write_folder(part, weights))
  print(f"{target}: {flags.FLAGS.to}, from {weights.origin}")


def _check_may_replace(target: Path, source: str) -> None:
  if not flags.FLAGS.force:
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


def _write_folder(folder: Path, source: weights_lib.Weights) -> None:
  # Use transformers' preprocessing: its processor cannot express big_vision's.
  source = source.as_released("transformers")
  image = _require("image", flags.FLAGS.image or source.image)
  text = _require("text", flags.FLAGS.text or source.text)
  side = _require("image_size", flags.FLAGS.image_size or source.image_size)
  tokenizer = flags.FLAGS.tokenizer or source.tokenizer
  # A run may have any tokenizer, even if its sizes are a released model's.
  is_run = source.kind == "workdir"
  variant = source.checked if is_run else source.variant
  options = preprocess.tokenize_options(text)
  flat = tree.flatten(layouts.unrolled(source.params))
  sizes = hf_config.of_params(flat, side)["text_config"]
  length, rows = sizes["max_position_embeddings"], sizes["vocab_size"]
  if options["max_len"] != length:
    raise UserError(
        f"Texts must be tokenized to the {length} positions of the model; got"
        f" max_len={options['max_len']} in {text!r}. Change --text."
    )
  if tokenizer is None and not flags.FLAGS.text:
    places = variant.tokenizer_places if variant else None
    where = f": it is published as {places}" if places else ""
    raise UserError(
        f"The weights come without a tokenizer: give --tokenizer{where}."
    )
  pp = fits.open_text(text, tokenizer=tokenizer, variant=variant)
  text_tokenizer = pp.tokenizer
  assert text_tokenizer is not None, "every model's text is tokenized"
  if is_run and not flags.FLAGS.tokenizer:
    fits.check_digest(text_tokenizer, source.tokenizer_digest)
  # A custom --text may come with a custom tokenizer.
  by_name = flags.FLAGS.tokenizer or flags.FLAGS.model
  published = variant if by_name and not flags.FLAGS.text else None
  fits.check(text_tokenizer, rows=rows, variant=published)
  transformers.write(
      folder,
      source.params,
      image_size=side,
      eos_id=text_tokenizer.eos_id,
      pad_id=options["pad_value"],
  )
  hf_processor.write(folder, image, side)
  hf_tokenizer.write(folder, pp)


def _require(name: str, value):
  if value is None:
    raise UserError(
        "The .npz is not a released model's, so it does not say how to prepare"
        f" images and texts: give --{name}."
    )
  return value


def _replace(target: Path, write: Callable[[Path], None]) -> None:
  """Writes beside the target and moves it there; a failure leaves nothing."""
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
  cli.main(main, define_flags, arguments=True)
