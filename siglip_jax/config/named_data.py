"""The data that a config file's arguments name: one source of captioned images.

A config file passes `ARGS` to `parse_arg` and takes its sections from
`sections`, so that every config reads the same kinds of data:

  :tars=SHARDS[,index=DIR]  :parquet=FILES  :table=FILE  :path=DIR  :name=DATA
"""

from collections.abc import Mapping
import json
from typing import Any

import ml_collections

from siglip_jax.config import at_most_one

KINDS = ("tars", "parquet", "table", "path", "name")
ARGS = dict.fromkeys(KINDS, "") | {
    "index": "",  # of the tars; by default the folder "index" beside them
    "data_dir": "",  # TFDS data folder, for `name`
    "image": "",  # member or column of the image
    "text": "",  # member, column or key of the captions
    "train_split": "train",
    # Retrieval among more than some thousand images says little more.
    "val_split": "validation[:5000]",
    "tokenizer": "",
}


def sections(
    arg: ml_collections.ConfigDict, default: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the data's part of config.data and of a retrieval in config.evals.

  Args:
    arg: the arguments of a config file, with those of `ARGS`.
    default: what to read if they name no data.

  Raises:
    UserError: they name several kinds of data.
  """
  at_most_one(arg, *KINDS)
  named = {key: arg[key] for key in (*KINDS, "index", "image") if arg[key]}
  data = named if any(arg[kind] for kind in KINDS) else dict(default)
  if arg["name"] or "name" in data:
    data["data_dir"] = arg["data_dir"] or default.get("data_dir", "data")
  train = data | {"split": arg["train_split"]}
  retrieval = data | {"split": arg["val_split"]}
  if arg["tars"] or arg["parquet"] or arg["table"]:
    retrieval["leave_out_unreadable"] = True  # the web has some
  if arg["text"]:
    train["text"] = arg["text"]
    retrieval["texts"] = ((arg["text"], 1.0),)
  return train, retrieval


def quoted(tokenizer: str) -> str:
  """Returns a tokenizer's path as a literal in a preprocessing string."""
  return json.dumps(tokenizer)
