"""The statuses that programs end with, and what means a full disk."""

import os
from pathlib import Path
import re
import resource

import pytest

from siglip_jax import errors


def test_the_scripts_of_tpu_know_the_statuses():
  known = {}
  for script in ("settings", "worker"):
    text = Path(f"tpu/{script}.sh").read_text()
    for name, value in re.findall(r"\b(DONE|WRONG|AGAIN)=(\d+)", text):
      known.setdefault(name, set()).add(int(value))
  assert known == {
      "DONE": {errors.DONE},
      "WRONG": {errors.BAD_INPUT},
      "AGAIN": {errors.TRY_AGAIN},
  }
  assert errors.TRY_AGAIN == os.EX_TEMPFAIL


def test_a_full_disk_and_a_limit_on_files_are_no_room(tmp_path):
  with pytest.raises(OSError) as full:
    Path("/dev/full").write_bytes(b"x")
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
  try:
    with pytest.raises(OSError) as limit:
      (tmp_path / "a").write_bytes(b"x" * 100)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert {full.value.errno, limit.value.errno} <= set(errors.NO_ROOM)
  with pytest.raises(OSError) as missing:
    (tmp_path / "gone").read_bytes()
  assert missing.value.errno not in errors.NO_ROOM


def test_callers_may_catch_pythons_own_errors():
  assert issubclass(errors.UserError, ValueError)
  assert issubclass(errors.TryAgain, RuntimeError)
  # Bad input must not be tried again, nor be taken for a lost worker.
  assert not issubclass(errors.UserError, errors.TryAgain)
  assert not issubclass(errors.TryAgain, errors.UserError)
