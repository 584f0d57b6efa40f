"""Lists images that training should leave out: copies, and held-out images.

  python -m siglip_jax.data.lists --tars='cc12m/{00000..01242}.tar' \
      --by=phash --out=copies.txt
  python -m siglip_jax.data.lists --path=train --against=path=coco/val \
      --by=embeddings --out=held_out.txt

Without --against, all but the first of several copies are listed; with it, all
images that are a copy of one of those. The list is for `without` of the same
data, read with the same arguments: it has the numbers of records, or the values
of the column --uid, which mean the same in other data.

--by=sha256 finds equal files; phash finds images that look alike, also if they
were scaled or compressed again; embeddings compares folders that `python -m
siglip_jax.embed` wrote (--embeddings, --against=embeddings=DIR).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from jaxtyping import Bool
import numpy as np

from siglip_jax import cli
from siglip_jax import files
from siglip_jax.data import kinds
from siglip_jax.data import sources
from siglip_jax.data.tables import filters
from siglip_jax.data.tables import hashes
from siglip_jax.data.tables import near
from siglip_jax.errors import UserError

_KINDS = ("path", "name", "tars", "parquet", "table", "embeddings")
_OPTIONS = ("index", "image", "text")
_SHOWN = 5  # keys that are printed


def define_flags() -> None:
  """Defines the flags of the command."""
  for kind in _KINDS:
    flags.DEFINE_string(kind, None, f"Data, as `{kind}` of config.data.")
  flags.DEFINE_string("split", "train", "Split of the data.")
  flags.DEFINE_string("data_dir", "data", "TFDS data folder, for --name.")
  for key in _OPTIONS:
    flags.DEFINE_string(key, None, f"The data's `{key}`, as in config.data.")
  flags.DEFINE_multi_string(
      "against", [], "Images that must not be in the data, as path=coco/val."
  )
  flags.DEFINE_string("against_split", "all", "Split of these.")
  flags.DEFINE_enum(
      "by", "phash", [*hashes.HASHES, "embeddings"], "What copies are alike in."
  )
  flags.DEFINE_integer(
      "distance",
      4,
      "Bits of 64 that may differ, with phash.",
      lower_bound=0,
      upper_bound=10,
  )
  flags.DEFINE_float(
      "cosine",
      0.95,
      "Least cosine of copies, with embeddings.",
      lower_bound=0,
      upper_bound=1,
  )
  flags.DEFINE_string("uid", None, "Column to list instead of numbers.")
  flags.DEFINE_string("out", None, "The .txt to write.", required=True)


def main(argv: Sequence[str]) -> None:
  """Writes the list and prints how many images are in it."""
  del argv
  values = flags.FLAGS
  out = Path(values.out).expanduser()
  if out.suffix != ".txt":
    raise UserError(f"--out must be a .txt file; got {values.out}.")
  options: dict[str, Any] = {
      key: values[key].value for key in (*_KINDS, *_OPTIONS)
  }
  source: Any = kinds.make(
      split=values.split, data_dir=values.data_dir, **options
  )
  others = [_other(word) for word in values.against]
  if values.by == "embeddings":
    copies, unread = _by_embeddings(source, others, values.cosine), 0
  else:
    copies, unread = _by_hashes(source, others, values.by, values.distance)
  rows = np.flatnonzero(copies)
  _write(out, source, rows, values.uid)
  what = (
      f"one of {sum(map(len, others)):,} others" if others else "an earlier one"
  )
  print(f"{len(rows):,} of {len(source):,} images are copies of {what}: {out}")
  if unread:
    print(f"{unread:,} images cannot be read and are not compared.")
  for row in rows[:_SHOWN].tolist():
    print(f"  {source.key(row)}")


def _other(word: str) -> Any:
  """Returns the source that a value of --against names."""
  kind, equals, place = word.partition("=")
  if not equals or kind not in _KINDS:
    raise UserError(
        f"--against must be KIND=PLACE with one of {', '.join(_KINDS)}, as"
        f" path=coco/val; got {word!r}."
    )
  values = flags.FLAGS
  options: dict[str, Any] = {kind: place}
  return kinds.make(
      split=values.against_split, data_dir=values.data_dir, **options
  )


def _by_hashes(
    source: Any, others: Sequence[Any], by: str, distance: int
) -> tuple[Bool[np.ndarray, " N"], int]:
  """Returns which images are copies, and how many could not be read."""
  own, readable = hashes.of_source(source, by)
  parts = [hashes.of_source(other, by) for other in others]
  held_out = np.concatenate([h[r] for h, r in parts]) if parts else None
  if by == "phash":
    result = near.alike(own[readable], distance, held_out)
  else:
    result = near.same(own[readable], held_out)
  copies = np.zeros(len(own), bool)
  copies[readable] = result
  unread = [np.sum(~r) for r in (readable, *(r for _, r in parts))]
  return copies, int(sum(unread))


def _by_embeddings(
    source: Any, others: Sequence[Any], least: float
) -> Bool[np.ndarray, " N"]:
  for each in (source, *others):
    if not hasattr(each, "every"):
      raise UserError(
          "--by=embeddings compares folders that `python -m siglip_jax.embed`"
          " wrote: give --embeddings=DIR and --against=embeddings=DIR."
      )
  towers = {each.manifest["tower_digest"] for each in (source, *others)}
  if len(towers) > 1:
    raise UserError(
        "Embeddings must be of one image tower to be compared; these are of"
        f" {len(towers)}. Make them with the same model."
    )
  held_out = np.concatenate([o.every() for o in others]) if others else None
  return near.similar(source.every(), least, held_out)


def _write(out: Path, source: Any, rows: np.ndarray, uid: str | None) -> None:
  out.parent.mkdir(parents=True, exist_ok=True)
  if uid is None:
    filters.write_rows(out, rows, sources.digest(source))
    return
  if not hasattr(source, "columns"):
    raise UserError(
        "--uid names a column of tars, parquet or a table; the data have no"
        " columns. Leave it out."
    )
  keys = source.columns(uid)[rows].tolist()
  with files.replacing(out) as partial:
    partial.write_text("".join(f"{key}\n" for key in keys))


if __name__ == "__main__":
  cli.main(main, define_flags)
