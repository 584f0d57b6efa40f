"""Copies of transformers' folders, which a test may change."""

import shutil

from hf_folders import TINY
from hf_folders import TINY2
import pytest


@pytest.fixture
def folder(tmp_path):
  for name in ("config.json", "model.safetensors"):
    shutil.copyfile(TINY / name, tmp_path / name)
  return tmp_path


@pytest.fixture
def folder2(tmp_path):
  return shutil.copytree(TINY2, tmp_path / "siglip2")
