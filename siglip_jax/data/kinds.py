"""The kinds of data that a config can name, and how each is opened."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import itertools
from pathlib import Path
import re
from typing import Any

import numpy as np

from siglip_jax.data import filtering
from siglip_jax.data import folders
from siglip_jax.data import sources
from siglip_jax.data.captioned import Captioned
from siglip_jax.data.embeddings import Embeddings
from siglip_jax.data.lanes import OrderSpec
from siglip_jax.data.sources import Source
from siglip_jax.data.tables.classes import ClassSource
from siglip_jax.data.tables.parquet import ParquetSource
from siglip_jax.data.tables.table import TableSource
from siglip_jax.data.tars.opening import tar_source
from siglip_jax.data.texts import Texts
from siglip_jax.data.tfds import tfds_source
from siglip_jax.errors import UserError

_TEXTS = {"text", "texts"}
_LISTS = {"only", "without"}
_FILTERS = _LISTS | {"where", "uid"}
_BLOCKS = {"order", "cache_dir", "cache_gb", "in_flight"}
# Kind of data -> the arguments that it takes beside `split` and `data_dir`.
KINDS = {
    "name": _TEXTS | _LISTS,
    "path": _TEXTS | _LISTS | {"templates"},
    "tars": _TEXTS | _FILTERS | _BLOCKS | {"index", "image"},
    "parquet": _TEXTS | _FILTERS | _BLOCKS | {"image"},
    "table": _TEXTS | _FILTERS | {"image"},
    "embeddings": set(),
    "mix": _BLOCKS,
}
_NOT_MIXED = {"mix", "embeddings"} | _BLOCKS
# Texts that TFDS data have if none is called "text", as COCO has.
_CAPTIONS = ("captions/text", "captions", "caption")
_FIRST = re.compile(r"(?P<split>\w+)\[:(?P<count>\d+)\]")


def make(
    *,
    split: str = "train",
    name: str | None = None,
    path: str | None = None,
    tars: str | Sequence[str] | None = None,
    parquet: str | Sequence[str] | None = None,
    table: str | None = None,
    embeddings: str | None = None,
    mix: Sequence[Mapping[str, Any]] | None = None,
    data_dir: str | Path = "data",
    index: str | None = None,
    image: str | None = None,
    text: str | None = None,
    texts: Mapping[str, float] | Sequence[Sequence] | None = None,
    templates: Sequence[str] = (),
    where: str | None = None,
    only: str | None = None,
    without: str | None = None,
    uid: str | None = None,
    order: OrderSpec = None,
    cache_dir: str | None = None,
    cache_gb: float | None = None,
    in_flight: int | None = None,
) -> Source:
  """Returns the source that one of `name`, `path`, ... specifies.

  Args:
    split: the split to read. Data without splits of their own are divided by a
      hash into "train" and "validation", or are read as "all";
      "validation[:5000]" is the first 5,000 records of it.
    name: a TFDS data set.
    path: a folder of captioned images.
    tars: tar shards, as "cc3m/{00000..00331}.tar": paths or URLs, with braces
      or a glob, or a list of them.
    parquet: parquet files, named likewise.
    table: a CSV, TSV or JSON-lines file that names images.
    embeddings: a folder that `python -m siglip_jax.embed` wrote.
    mix: several sources: a list of such arguments, each with `weight`, and a
      `title` where two would have the same name.
    data_dir: TFDS data folder, for `name`.
    index: folder of the index of `tars`; by default "index" beside them.
    image: suffixes of the images in `tars`, "jpg;png", or their column.
    text: key of the texts: in `tars` a suffix or "json:FIELD", otherwise a
      column or a key of the records. By default "txt" in tars, and elsewhere
      "text" or a usual name of captions.
    texts: several such keys with weights, of which training draws one; as a
      dict or, as a config allows no dots in the keys of a dict, as pairs.
    templates: captions for a folder of class folders, with "{}" for the name.
    where: a condition on columns that records must meet, such as
      "min(width, height) >= 200".
    only: a file of keys; records with others are left out.
    without: a file of keys of records that are left out.
    uid: the column that the keys of `only` and `without` are of.
    order: how training shuffles; its `block_mb` is the size of a block.
    cache_dir: folder for blocks that are read ahead; by default in memory.
    cache_gb: limit on their size in gigabytes.
    in_flight: number of reads from a bucket at a time.

  Raises:
    UserError: not exactly one kind of data is given, an argument belongs to
      another kind, or the data cannot be read.
  """
  given = {k: v for k, v in locals().items() if v is not None and v != ()}
  if texts is not None:
    given["texts"] = _pairs(texts)
  kind = _kind(given)
  for key in given.keys() - KINDS[kind] - {kind, "split", "data_dir"}:
    takers = [k for k, keys in KINDS.items() if key in keys]
    raise UserError(
        f"Data of {kind}={_short(given[kind])} take no {key!r}, which belongs"
        f" to {' and '.join(takers)}; got {key}={_short(given[key])}. Leave it"
        " out."
    )
  if kind == "mix":
    return _mixture(given)
  first = _FIRST.fullmatch(split)
  if first and kind not in ("name", "embeddings"):
    whole = _OPEN[kind](given | {"split": first["split"]})
    count = min(int(first["count"]), len(whole))
    return sources.Subset(whole, range(count))
  return _OPEN[kind](given)


def _pairs(texts: Any) -> dict[Any, Any]:
  """Returns keys with weights as a dict."""
  try:
    return dict(texts)
  except (TypeError, ValueError):
    raise UserError(
        "`texts` must be keys with weights, as {'txt': 0.3, 'caption': 0.7} or"
        f" (('txt', 0.3), ('json:a.b', 0.7)); got {_short(texts)}."
    ) from None


def _kind(given: Mapping[str, Any]) -> str:
  kinds = [kind for kind in KINDS if kind in given]
  if len(kinds) == 1:
    return kinds[0]
  words = ", ".join(f"{kind}={_short(given[kind])}" for kind in kinds)
  raise UserError(
      "Data need exactly one of `name` (a TFDS data set), `path` (a folder of"
      " images), `tars`, `parquet`, `table` (CSV and the like), `embeddings` (a"
      " folder that siglip_jax.embed wrote) and `mix`; got"
      f" {words or 'none of them'}."
  )


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 100 else f"{text[:97]}..."


def _open_tfds(given: Mapping[str, Any]) -> Source:
  source = tfds_source(
      given["name"], given["split"], data_dir=given["data_dir"]
  )
  if not _TEXTS & given.keys() and "text" not in source.texts:
    if usual := [key for key in _CAPTIONS if key in source.texts]:
      given = {**given, "text": usual[0]}
  return _captioned(_listed(source, given), given)


def _open_folder(given: Mapping[str, Any]) -> Source:
  if "templates" in given:
    folder, templates = given["path"], given["templates"]
    source = ClassSource(folder, templates=templates, split=given["split"])
    return _listed(source, given)
  source = folders.folder_source(str(given["path"]), given["split"])
  return _captioned(_listed(source, given), given)


def _listed(source: Source, given: Mapping[str, Any]) -> Source:
  """Returns the records that `only` and `without` leave, by their numbers."""
  if not _LISTS & given.keys():
    return source
  chosen = filtering.chosen(source, **_only(given, *_LISTS))
  return sources.Subset(source, np.flatnonzero(chosen).tolist())


def _captioned(source: Source, given: Mapping[str, Any]) -> Source:
  if _TEXTS & given.keys():
    texts = Texts.of(given.get("text"), given.get("texts"))
    return Captioned(source, texts)
  return source


def _open_embeddings(given: Mapping[str, Any]) -> Source:
  folders.check_local(given["embeddings"])
  return Embeddings(given["embeddings"], given["split"])


def _open_table(given: Mapping[str, Any]) -> Source:
  options = _only(given, "table", "split", "image", *_TEXTS)
  return _chosen(TableSource, options, given)


def _open_tars(given: Mapping[str, Any]) -> Source:
  options = _only(
      given, "tars", "index", "split", "image", *_TEXTS, "in_flight"
  )
  return _chosen(tar_source, options | _block_size(given), given)


def _open_parquet(given: Mapping[str, Any]) -> Source:
  options = _only(given, "parquet", "split", "image", *_TEXTS)
  return _chosen(ParquetSource, options, given)


def _only(given: Mapping[str, Any], *keys: str) -> dict[str, Any]:
  return {key: given[key] for key in keys if key in given}


def _block_size(given: Mapping[str, Any]) -> dict[str, int]:
  order = given.get("order")
  return _only(order, "block_mb") if isinstance(order, Mapping) else {}


def _chosen(
    constructor: Callable[..., Any],
    options: dict[str, Any],
    given: Mapping[str, Any],
) -> Source:
  """Returns a source of the records that pass `where`, `only` and `without`."""
  if "uid" in given and not _LISTS & given.keys():
    raise UserError(
        "`uid` must come with `only` or `without`: it is the column of their"
        f" keys; got uid={given['uid']!r} alone."
    )
  source = constructor(**options)
  conditions = _only(given, *_FILTERS)
  if conditions:
    chosen = filtering.chosen(source, **conditions)
    pick = getattr(source, "selected", None)
    source = pick(chosen) if pick else constructor(**options, select=chosen)
  return _with_blocks(source, given)


def _with_blocks(source: Any, given: Mapping[str, Any]) -> Source:
  """Sets where blocks are read ahead, for sources that fetch them."""
  if hasattr(source, "write_block"):
    source.blocks_options = _only(given, "cache_dir", "cache_gb", "in_flight")
  return source


def _mixture(given: Mapping[str, Any]) -> Source:
  """Returns the mixture of the sources in a list of arguments."""
  # Evaluations, which read no mixture, do without Grain.
  from siglip_jax.data.mixture import Mixture
  from siglip_jax.data.mixture import Part

  parts = []
  for number, arguments in enumerate(given["mix"]):
    name = f"config.data.mix[{number}]"
    if not isinstance(arguments, Mapping) or "weight" not in arguments:
      raise UserError(
          f"{name} must be a dict of a source's arguments and its `weight`; got"
          f" {_short(arguments)}."
      )
    options = dict(arguments)
    weight, title = options.pop("weight"), options.pop("title", None)
    if wrong := options.keys() & _NOT_MIXED:
      raise UserError(
          f"{name} cannot have {min(wrong)!r}: a mixture has one order and one"
          " cache, set beside `mix`, and its sources are images."
      )
    inherited = {"split", "data_dir", "order"}
    if "order" not in KINDS[_kind(options)]:
      inherited -= {"order"}  # these data have no blocks
    source = make(**_only(given, *inherited) | options)
    title = title or _unused(_title(options), [part.name for part in parts])
    parts.append(Part(title, weight, source))
  return _with_blocks(Mixture(parts), given)


def _unused(name: str, names: Sequence[str]) -> str:
  """Returns a name, with a number if it is taken."""
  numbers = itertools.count(2)
  unused = name
  while unused in names:
    unused = f"{name}_{next(numbers)}"
  return unused


def _title(options: Mapping[str, Any]) -> str:
  """Returns a name for a source: the last part of its path that tells much."""
  place = options[_kind(options)]
  place = place if isinstance(place, str) else str(next(iter(place), ""))
  words = re.split(r"[/@]", place.rstrip("/"))
  telling = [w for w in words[:-1] if w not in ("", "data", "train")]
  if "name" in options or "path" in options or not telling:
    return re.split(r"[.{*]", words[-1])[0] or place
  return telling[-1]


_OPEN: dict[str, Callable[[Mapping[str, Any]], Source]] = {
    "name": _open_tfds,
    "path": _open_folder,
    "tars": _open_tars,
    "parquet": _open_parquet,
    "table": _open_table,
    "embeddings": _open_embeddings,
}
