"""The folder that a run writes to."""

import json
from pathlib import Path
import shutil

import ml_collections

from siglip_jax.config import schema
from siglip_jax.data.tokenizer import Tokenizer
from siglip_jax.errors import UserError


def prepare(workdir: str | Path, index: int) -> Path:
  """The workdir, made and known to be writable.

  Args:
    workdir: a local or mounted folder.
    index: of this process.
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


def keep_tokenizer(tokenizer: Tokenizer, workdir: Path) -> None:
  """Copies the tokenizer beside the weights, in one move."""
  part = workdir / "tokenizer.part"
  shutil.copyfile(tokenizer.path, part)
  part.replace(workdir / "tokenizer.model")


def write_config(config: ml_collections.ConfigDict, workdir: Path) -> None:
  """Writes config.json, the config as resolved, in one move."""
  part = workdir / "config.part"
  part.write_text(json.dumps(config.to_dict(), indent=2) + "\n")
  part.replace(workdir / "config.json")


def read_config(workdir: Path) -> ml_collections.ConfigDict:
  """Reads config.json back."""
  path = workdir / "config.json"
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
