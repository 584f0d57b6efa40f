"""A run's workdir: which files it holds, and how they are written."""

from collections.abc import Mapping
import contextlib
import hashlib
import json
import os
from pathlib import Path
import shutil
from typing import Any

import ml_collections

from siglip_jax import files
from siglip_jax.config import schema
from siglip_jax.data.embeddings import TOWER
from siglip_jax.data.embeddings import Embeddings
from siglip_jax.data.tokenizer import FORMATS
from siglip_jax.data.tokenizer import Tokenizer
from siglip_jax.errors import UserError

_CONFIG = "config.json"
_STARTS = "starts.jsonl"
_END = "ended at step"


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
  workdir = local(workdir)
  probe = workdir / f".write_test_{index}"
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    probe.touch()
    probe.unlink()
  except OSError as e:
    raise UserError(unwritable(workdir, e)) from None
  return workdir


def local(workdir: str | Path) -> Path:
  """Returns the path of a workdir, with ~ expanded.

  Raises:
    UserError: the path is remote.
  """
  if "://" in str(workdir):
    raise UserError(
        "--workdir must be a folder of the file system; got"
        f" {workdir}. Mount the bucket (gcsfuse, s3fs) and give its folder."
    )
  return Path(workdir).expanduser()


def unwritable(workdir: Path, e: OSError) -> str:
  """Returns the message for a workdir that cannot be written to."""
  return (
      f"The workdir must be a folder that can be written to: {workdir}"
      f" ({e.strerror}). Give another --workdir."
  )


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


def write_config(config: ml_collections.ConfigDict, workdir: Path) -> int:
  """Writes the resolved config to config.json, in one move.

  If config.json holds another config, that one is kept: the run's first config
  as config.1.json, its second as config.2.json, and so on.

  Returns:
    The number of this config: how many configs the run has had.
  """
  text = json.dumps(config.to_dict(), indent=2) + "\n"
  path, number = workdir / _CONFIG, 1
  while (old := path.with_suffix(f".{number}.json")).exists():
    number += 1
  if path.is_file() and (before := path.read_bytes()) != text.encode():
    # A start killed between these two moves has kept the file already.
    last = path.with_suffix(f".{number - 1}.json")
    if last.is_file() and last.read_bytes() == before:
      number -= 1
    else:
      with files.replacing(old) as partial:
        partial.write_bytes(before)
    number += 1
  with files.replacing(path) as partial:
    partial.write_text(text)
  return number


def note_start(workdir: Path, start: Mapping[str, Any]) -> None:
  """Appends a start of the run, a JSON object, to starts.jsonl."""
  path = workdir / _STARTS
  cut_short = path.is_file() and not path.read_bytes().endswith(b"\n")
  with path.open("a", encoding="utf-8") as f:
    f.write("\n" * cut_short + json.dumps(start) + "\n")


def note_end(workdir: Path, step: int) -> None:
  """Appends the end of the run to starts.jsonl."""
  note_start(workdir, {_END: step})


def has_ended(workdir: Path) -> bool:
  """Whether the run has ended, and was not started again."""
  notes = _notes(workdir)
  return bool(notes) and _END in notes[-1]


def read_starts(workdir: Path) -> list[dict[str, Any]]:
  """Returns the starts of the run, but for lines that a crash cut short."""
  return [note for note in _notes(workdir) if _END not in note]


def _notes(workdir: Path) -> list[dict[str, Any]]:
  path = workdir / _STARTS
  if not path.is_file():
    return []
  starts = []
  for line in path.read_text("utf-8", errors="replace").splitlines():
    with contextlib.suppress(json.JSONDecodeError):
      if isinstance(start := json.loads(line), dict):
        starts.append(start)
  return starts


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
