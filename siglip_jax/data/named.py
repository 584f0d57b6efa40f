"""Flags that name data, for the commands that read them."""

from absl import flags

from siglip_jax.data import kinds
from siglip_jax.data.sources import Source
from siglip_jax.errors import UserError

_KINDS = ("path", "name", "tars", "parquet", "table")
_MORE = ("index", "image", "where")


def define_flags(split: str = "train") -> None:
  """Defines the flags; `split` is the default one."""
  flags.DEFINE_string("path", None, "Folder of captioned images.")
  flags.DEFINE_string("name", None, "TFDS data set.")
  flags.DEFINE_string("data_dir", "data", "TFDS data folder, for --name.")
  flags.DEFINE_string("tars", None, "Tar shards, as 'cc3m/{00000..00331}.tar'.")
  flags.DEFINE_string("index", None, "Folder of the index of --tars.")
  flags.DEFINE_string("parquet", None, "Parquet files, as 'data/*.parquet'.")
  flags.DEFINE_string("table", None, "CSV, TSV or JSON-lines file of paths.")
  flags.DEFINE_string("image", None, "Suffixes or column of the images.")
  flags.DEFINE_string("where", None, "Condition on columns of the records.")
  flags.DEFINE_string("split", split, "Split to read.")


def source(text: str | None = None) -> Source:
  """Returns the data that the flags name.

  Args:
    text: key of the texts, in data that have none of their own; None for the
      usual one.

  Raises:
    UserError: not exactly one kind of data is named, or it cannot be read.
  """
  args = flags.FLAGS.flag_values_dict()
  given = {k: args[k] for k in _KINDS if args[k]}
  if len(given) != 1:
    words = " and ".join(f"--{k}={v}" for k, v in given.items()) or "none"
    raise UserError(
        f"Exactly one of {', '.join(f'--{k}' for k in _KINDS)} must name the"
        f" data; got {words}."
    )
  given |= {k: args[k] for k in _MORE if args[k]}
  if text is not None:
    given["text"] = text
  return kinds.make(split=args["split"], data_dir=args["data_dir"], **given)
