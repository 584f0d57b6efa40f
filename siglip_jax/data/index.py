"""Makes the index of tar shards, by which samples are read in any order.

  python -m siglip_jax.data.index 'cc12m/{00000..01242}.tar' [--out=DIR]

Reads each shard once. A command that was interrupted goes on where it was; run
again later, it reads the shards that have changed alone. It prints what it
found and what it left out.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import time

from absl import flags

from siglip_jax import cli
from siglip_jax.data import remote
from siglip_jax.data.tars import build
from siglip_jax.data.tars import index as index_lib
from siglip_jax.data.tars import manifest as manifest_lib
from siglip_jax.data.tars.manifest import Manifest
from siglip_jax.errors import UserError

_LAYOUTS = 10  # in the table; the rest is summed up
_SUFFIXES = 20
_DAMAGES = 20


def define_flags() -> None:
  """Defines the flags of the command."""
  flags.DEFINE_string(
      "out", None, "Folder to write, local or in a bucket; index/ beside TARS."
  )
  flags.DEFINE_list(
      "columns",
      [],
      "Values to store for filters, as width,height,similarity: fields of the"
      " .json members, or of the .parquet beside each tar; or key.",
  )
  flags.DEFINE_string(
      "image", ";".join(build.IMAGE), "Suffixes of images, the first is taken."
  )
  flags.DEFINE_bool(
      "decode",
      False,
      "Leave out images that cannot be decoded, about 1 ms each. Evaluations"
      " need all of their images.",
  )
  flags.DEFINE_integer(
      "workers",
      None,
      "Processes; by default one for each core, at most 32.",
      lower_bound=1,
  )


def main(argv: Sequence[str]) -> None:
  """Writes the index and prints what is in it."""
  tars = list(argv[1:])
  if not tars:
    raise UserError(
        "The tars must be named, as python -m siglip_jax.data.index"
        " 'cc12m/{00000..01242}.tar'."
    )
  values = flags.FLAGS
  begin = time.monotonic()
  out = values.out or index_lib.beside(remote.expand(tars))
  options = _kept(
      out,
      build.Options(
          image=build.suffixes(values.image),
          columns=tuple(values.columns),
          decode=values.decode,
      ),
      asked=bool(values["decode"].present),
  )
  manifest = build.build(tars, out, options, workers=values.workers)
  seconds = time.monotonic() - begin
  print("\n".join(report(manifest)))
  print(f"The index is in {out} ({seconds:.0f} s).")


def _kept(out: str, options: build.Options, asked: bool) -> build.Options:
  """Returns the options, with what an earlier index in the folder has.

  Args:
    out: the folder.
    options: the options of this command.
    asked: whether the command says to decode images, or not to.
  """
  before = manifest_lib.read(out)
  if before is None:
    return options
  columns = tuple(dict.fromkeys([*before.columns, *options.columns]))
  decode = options.decode
  if not asked and build.UNDECODABLE in before.counts:
    decode = True
  kept = dataclasses.replace(options, columns=columns, decode=decode)
  if kept != options:
    print(
        f"The index in {out} keeps its columns ({', '.join(columns) or 'none'})"
        f"{' and leaves out what cannot be decoded' if decode else ''}. Remove"
        " it to begin again."
    )
  return kept


def report(manifest: Manifest) -> Iterator[str]:
  """Yields the lines of a table of what was found and left out."""
  samples = int(manifest.samples.sum())
  size = manifest.sizes.sum() / 1e9
  yield f"{len(manifest.names)} shards, {size:.2f} GB"
  yield from _section(
      "samples with an image, by their members",
      {" ".join(layout): n for layout, n in manifest.of_layout().items()},
      _LAYOUTS,
  )
  held = int(manifest.groups[:, 3].sum())
  yield f"  {samples:>13,}  in all, of which {held:,} in validation"
  yield from _section("left out", manifest.counts, len(manifest.counts))
  yield from _section("columns, values", manifest.columns, 1000)
  yield from _section("members by suffix", manifest.suffixes, _SUFFIXES)
  if manifest.problems:
    yield "damage, by shard and byte:"
  for shard, offset, text in manifest.problems[:_DAMAGES]:
    yield f"  {shard}, {offset}: {text}"
  if len(manifest.problems) > _DAMAGES:
    yield f"  and {len(manifest.problems) - _DAMAGES} more, in the manifest"


def _section(
    title: str, numbers: Mapping[str, int], most: int
) -> Iterator[str]:
  """Yields a title and a line for each number, the largest first."""
  items = sorted(numbers.items(), key=lambda item: -item[1])
  if items:
    yield f"{title}:"
  for name, number in items[:most]:
    yield f"  {number:>13,}  {name}"
  if len(items) > most:
    rest = sum(number for _, number in items[most:])
    yield f"  {rest:>13,}  {len(items) - most} others"


if __name__ == "__main__":
  cli.main(main, define_flags, arguments=True)
