"""A run's workdir: which files it holds, and how they are written."""

import hashlib
import json
import os
from pathlib import Path
import shutil

import ml_collections

from siglip_jax import files
from siglip_jax.config import schema
from siglip_jax.data.embeddings import TOWER
from siglip_jax.data.embeddings import Embeddings
from siglip_jax.data.tokenizer import FORMATS
from siglip_jax.data.tokenizer import Tokenizer
from siglip_jax.errors import UserError

_CONFIG = "config.json"


def prepare(workdir: str | Path, index: int) -> Path:
  """Creates the workdir if it is missing, and checks that it is writable.

  Args:
    workdir: local or mounted folder.
    index: this process's index.

  Returns:
    The path of the workdir, with ~ expanded.

  Raises:
    UserError: the path is remote, or cannot be written to.
  """
  if "://" in str(workdir):
    raise UserError(
        "--workdir must be a folder of the file system; got"
        f" {workdir}. Mount the bucket (gcsfuse, s3fs) and give its folder."
    )
  workdir = Path(workdir).expanduser()
  probe = workdir / f".write_test_{index}"
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    probe.touch()
    probe.unlink()
  except OSError as e:
    raise UserError(
        f"The workdir must be a folder that can be written to: {workdir}"
        f" ({e.strerror}). Give another --workdir."
    ) from None
  return workdir


def is_workdir(folder: Path) -> bool:
  """Whether a folder holds checkpoints or the config of a run."""
  return (folder / "checkpoints").is_dir() or (folder / _CONFIG).is_file()


def keep_tokenizer(tokenizer: Tokenizer, workdir: Path) -> None:
  """Copies the tokenizer into a workdir, under the name for its format.

  A file of another name stays: a config may name it, or somebody put it there.
  """
  data = tokenizer.read_bytes()
  with files.replacing(workdir / tokenizer.file_name) as partial:
    partial.write_bytes(data)


def tokenizer_path(workdir: Path, digest: str) -> Path:
  """Returns the path of the tokenizer that `keep_tokenizer` kept.

  Args:
    workdir: folder of a run, also of an earlier version, which kept every
      tokenizer as tokenizer.model.
    digest: sha256 of the tokenizer. Without a file of this digest, the path is
      of a file that the caller will find to be missing or another one.
  """
  paths = [path for name in FORMATS if (path := workdir / name).is_file()]
  for path in paths:
    if hashlib.sha256(path.read_bytes()).hexdigest() == digest:
      return path
  return paths[0] if paths else workdir / next(iter(FORMATS))


def keep_tower(source: Embeddings, workdir: Path) -> None:
  """Puts the tower that made embeddings into a workdir, by a link if possible.

  Raises:
    UserError: the tower is missing, both beside the embeddings and in the
      workdir.
  """
  original, target = source.folder / TOWER, workdir / TOWER
  if not original.is_file() and target.is_file():
    return  # saved when the run started; `tower_file.kept` verifies its digest
  if not original.is_file():
    raise UserError(
        f"{original} is missing: the tower that made the embeddings, which the"
        " trained model needs to see with. Copy the folder again."
    )
  if target.is_file() and target.samefile(original):
    return  # a link to it, from an earlier start
  with files.replacing(target) as partial:
    try:
      os.link(original, partial)
    except OSError:  # another file system, or one without links
      shutil.copyfile(original, partial)


def write_config(config: ml_collections.ConfigDict, workdir: Path) -> None:
  """Writes the resolved config to config.json, in one move."""
  with files.replacing(workdir / _CONFIG) as partial:
    partial.write_text(json.dumps(config.to_dict(), indent=2) + "\n")


def read_config(workdir: Path) -> ml_collections.ConfigDict:
  """Reads the config that `write_config` wrote.

  Raises:
    UserError: the file is missing, damaged, or not the config of a run.
  """
  path = workdir / _CONFIG
  if not path.is_file():
    raise UserError(
        f"{workdir} holds no config.json: expected the --workdir of a run."
    )
  try:
    config = json.loads(path.read_bytes())
  except ValueError as e:
    raise UserError(
        f"{path} is damaged: {e}. The command that trained the run writes it"
        " again."
    ) from None
  keys = schema.TOP_LEVEL.keys()
  if not isinstance(config, dict) or not keys <= config.keys():
    raise UserError(
        f"{path} is not the config of a run of this project: expected the"
        f" keys {', '.join(schema.TOP_LEVEL)}."
    )
  return ml_collections.ConfigDict(config)
