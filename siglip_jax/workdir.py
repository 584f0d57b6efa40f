"""The folder that a run writes to."""

from pathlib import Path
import shutil

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
