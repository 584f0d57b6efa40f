"""`load`: trained weights of any origin, with the preprocessing they need."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import difflib
import functools
import os
from pathlib import Path
from typing import Any

from absl import logging
import jax

from siglip_jax import files
from siglip_jax import sharding
from siglip_jax import tree
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.data.tokenizer import Tokenizer
from siglip_jax.errors import UserError
from siglip_jax.inference.model import SigLIP
from siglip_jax.models import zoo
from siglip_jax.models.two_towers import TwoTowers
from siglip_jax.weights import big_vision
from siglip_jax.weights import layouts
from siglip_jax.weights import transformers

DTYPES = ("float32", "bfloat16", "float16")
_Path = str | os.PathLike
# Raises UserError when a tokenizer is not the model's.
_Check = Callable[[Tokenizer], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Found:
  """Weights of any origin."""

  model: TwoTowers
  params: Mapping
  spec: dict[str, Any]
  text: Preprocess | Callable[[], str]


def load(
    path: _Path,
    *,
    weights: _Path | None = None,
    tokenizer: _Path | None = None,
    variant: str | zoo.Variant | None = None,
    dtype: str | None = None,
    batch_size: int = 64,
) -> SigLIP:
  """Loads a model to encode and classify with, on the local devices.

    load("runs/emoji")                                a workdir of this project
    load("siglip-base-patch16-256")                   a transformers folder
    load("siglip-b16-256", weights="b16.npz", tokenizer="c4.model")
    load("b16.npz", tokenizer="c4.model")             big_vision's weights

  A workdir and a transformers folder say how texts and images are prepared.
  An .npz does not: it is prepared as the released model is that has its sizes,
  and refused where there is none, or `variant` does not say which.

  Args:
    path: any of the above; the name of a released model is of `zoo.names()`.
    weights: of the released model named `path`: an .npz or a transformers
      folder, which are checked to be that model.
    tokenizer: the tokenizer's file; where it is published is in the error that
      its absence gives. Images need none.
    variant: which released model an .npz is, or a `zoo.Variant` of your own.
    dtype: of activations and matmuls, one of `DTYPES`; as trained by default,
      which for released weights is float32.
    batch_size: most images or texts at a time.

  Raises:
    UserError: what is missing, damaged, or does not belong together.
  """
  if batch_size < 1:
    raise UserError(f"batch_size must be a positive integer; got {batch_size}.")
  if dtype is not None and dtype not in DTYPES:
    raise UserError(
        f"dtype must be one of {', '.join(DTYPES)}, or None for the model's"
        f" own; got {dtype!r}."
    )
  mesh = sharding.make_mesh(jax.local_devices())
  found = _find(path, weights, tokenizer, variant)
  return SigLIP(
      model=dataclasses.replace(found.model, dtype=dtype or found.model.dtype),
      params=jax.device_put(dict(found.params), sharding.replicated(mesh)),
      mesh=mesh,
      spec=found.spec,
      text=found.text,
      batch_size=batch_size,
  )


def _find(path: _Path, weights, tokenizer, variant) -> _Found:
  """Arguments of `load` to what they name."""
  kind = _kind(path, weights)
  if kind == "workdir":
    _refuse(path, "workdir", tokenizer=tokenizer, variant=variant)
    return _of_workdir(Path(path).expanduser())
  if kind == "folder":
    _refuse(path, "transformers folder", variant=variant)
    return _of_folder(path, tokenizer)
  if kind == "npz":
    chosen = zoo.get(variant) if isinstance(variant, str) else variant
    return _of_npz(path, chosen, tokenizer)
  _refuse(path, "name of a released model", variant=variant)
  chosen = zoo.get(os.fspath(path))
  source = files.find(
      weights, what="big_vision's .npz or a transformers folder"
  )
  if source.is_dir():
    return _of_folder(source, tokenizer, chosen)
  return _of_npz(source, chosen, tokenizer)


def _kind(path: _Path, weights: _Path | None) -> str:
  """What a path is: "workdir", "folder", "npz", or the "name" of a model."""
  name = os.fspath(path)
  released = name in zoo.names()
  if weights is not None and not released:
    raise UserError(
        "weights= goes with the name of a released model, which they are"
        f" checked to be; got {name!r}, {_hint(name)}"
    )
  if weights is not None:
    return "name"
  found = files.reach(path)
  if found is not None and found.is_dir():
    return "folder" if transformers.is_folder(found) else "workdir"
  if found is not None:
    return "npz"
  if released:
    variant = zoo.get(name)
    raise UserError(
        f"{name} needs weights=PATH: {variant.big_vision.weights}, or a copy of"
        f" {variant.transformers.weights}."
    )
  raise UserError(
      f"There is no {name}: expected a workdir, a transformers folder, an .npz"
      f" or the name of a released model, {_hint(name)}"
  )


def _hint(name: str) -> str:
  close = difflib.get_close_matches(name, zoo.names(), n=1, cutoff=0.5)
  return f"as {close[0]!r}." if close else f"as {zoo.names()[0]!r}."


def _refuse(path: _Path, what: str, **given) -> None:
  """An option that this kind of model has no use for may hide a mistake."""
  for option, value in given.items():
    if value is not None:
      raise UserError(
          f"{path} is a {what}, which needs no {option}; got"
          f" {option}={value!r}. Leave it out."
      )


def _of_workdir(workdir: Path) -> _Found:
  # Only runs need Orbax and all that trains; importing them takes half as long
  # as reading a model of another origin.
  from siglip_jax import workdir as workdir_lib
  from siglip_jax.weights import tower_file
  from siglip_jax.weights import workdirs

  config = workdir_lib.read_config(workdir)
  model = TwoTowers(**config.model.to_dict())
  side = config.image_size
  shapes = model.shapes((side, side, 3), config.text_len)
  params, spec = workdirs.read_params(workdir)
  if _shapes(params) != _shapes(shapes):
    raise UserError(
        f"The newest checkpoint of {workdir} is not of the model in its"
        " config.json. The command that trained the run writes it again."
    )
  if model.embedded:  # trained beside a locked tower, which the workdir holds
    params |= tower_file.kept(workdir, spec["tower_digest"], model.scan)
    model = dataclasses.replace(model, embedded=False)
  path = workdir / "tokenizer.model"
  text = Preprocess(spec["text"], tokenizer_path=path)
  assert text.tokenizer is not None, "no run starts without"
  if text.tokenizer.digest != spec["tokenizer_digest"]:
    raise UserError(
        f"{path} is not the tokenizer the weights were trained with: sha256"
        f" {spec['tokenizer_digest'][:12]}..., got"
        f" {text.tokenizer.digest[:12]}.... Restore the file."
    )
  return _Found(model=model, params=params, spec=spec, text=text)


def _shapes(params: Mapping) -> dict[str, tuple[int, ...]]:
  return {name: x.shape for name, x in tree.flatten(params).items()}


def _of_folder(
    folder: _Path, tokenizer: _Path | None, variant: zoo.Variant | None = None
) -> _Found:
  found = transformers.read(folder, variant=variant)
  rows, by_hand = found.model["text"]["vocab_size"], tokenizer is not None
  # Which it is, where that is asked for: a model is traced to tell.
  known = variant or (zoo.identify(found.params) if by_hand else None)

  def check(given: Tokenizer) -> None:
    if variant is not None:
      _check_published(variant, given)
      return
    _check_rows(rows, given, exact=by_hand)
    if known is not None:
      try:
        _check_published(known, given)
      except UserError as e:
        logging.warning("%s has the sizes of %s. %s", folder, known.name, e)

  def no_tokenizer() -> str:
    model = variant or zoo.identify(found.params)
    where = f", {model.transformers.tokenizer}" if model else ""
    return (
        f"{folder} holds no tokenizer: copy it there from where the model is"
        f" published{where}, or give tokenizer=PATH."
    )

  return _assembled(
      model=found.model,
      params=found.params,
      recipe=found,
      sizes=found,
      tokenizer=tokenizer or found.tokenizer,
      check=check,
      published=known.tokenizer_places if known else None,
      no_tokenizer=no_tokenizer,
  )


def _of_npz(
    path: _Path, variant: zoo.Variant | None, tokenizer: _Path | None
) -> _Found:
  params = big_vision.read(path)
  if variant is not None:
    variant.check(params)
  else:
    variant = zoo.identify(params)
    if variant is None:
      raise UserError(
          f"{path} has the sizes of no released model, so how its texts and"
          " images are prepared is not known: load the workdir or the"
          " transformers folder it is from."
      )
    logging.warning("%s is taken as %s, by its sizes.", path, variant.name)
  return _assembled(
      model=variant.model,
      params=params,
      recipe=variant.big_vision,
      sizes=variant,
      tokenizer=tokenizer,
      check=functools.partial(_check_published, variant),
      published=variant.tokenizer_places,
      no_tokenizer=lambda: (
          f"Texts need the tokenizer of {variant.name}: give tokenizer=PATH of"
          f" a copy of {variant.tokenizer_places}."
      ),
  )


def _assembled(
    *,
    model: Mapping,
    params: Mapping,
    recipe: Any,
    sizes: Any,
    tokenizer: _Path | None,
    check: _Check,
    published: str | None,
    no_tokenizer: Callable[[], str],
) -> _Found:
  """Weights and the attributes that say how they are to be fed.

  Args:
    model: keyword arguments of TwoTowers.
    params: in either layout.
    recipe: has `image` and `text`, preprocessing strings.
    sizes: has `image_size` and `text_len`.
    tokenizer: its file, or None.
    check: of the tokenizer.
    published: where the tokenizer can be had.
    no_tokenizer: what to tell who encodes texts without.
  """
  spec = {
      "image": recipe.image,
      "text": recipe.text,
      "image_size": sizes.image_size,
      "text_len": sizes.text_len,
  }
  text: Preprocess | Callable[[], str] = no_tokenizer
  if tokenizer is not None:
    text = Preprocess(
        recipe.text, tokenizer_path=tokenizer, published=published
    )
    assert text.tokenizer is not None, "every recipe tokenizes"
    check(text.tokenizer)
    spec["tokenizer_digest"] = text.tokenizer.digest
  return _Found(
      model=TwoTowers(**model),
      params=layouts.unrolled(params),
      spec=spec,
      text=text,
  )


def _check_published(variant: zoo.Variant, tokenizer: Tokenizer) -> None:
  variant.check_tokenizer(
      tokenizer.path, pieces=tokenizer.vocab_size, digest=tokenizer.digest
  )


def _check_rows(rows: int, tokenizer: Tokenizer, *, exact: bool) -> None:
  """Each piece has its row of the embedding.

  Exact: each row a piece, too; models of ours may have rows to spare.
  """
  pieces = tokenizer.vocab_size
  if not zoo.has_rows_for(rows, pieces) or (exact and pieces < rows):
    raise UserError(
        f"The model was trained with a tokenizer of {rows} pieces;"
        f" {tokenizer.path} has {pieces}. Give the one it was trained with."
    )
