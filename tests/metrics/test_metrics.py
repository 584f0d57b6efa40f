"""The package: its names, and that W&B is not imported unasked."""

import sys

import pytest

from siglip_jax import metrics
from siglip_jax.errors import UserError


def test_all_names_are_there():
  assert all(hasattr(metrics, name) for name in metrics.__all__)


def test_wandb_is_imported_only_if_it_is_asked_for(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "wandb", None)  # cannot be imported
  with metrics.MetricWriter(tmp_path, write=True) as writer:
    writer.write(1, {"a": 1.0})
  assert metrics.read(tmp_path) == [{"step": 1, "a": 1.0}]
  with pytest.raises(UserError, match="needs the package wandb"):
    metrics.MetricWriter(tmp_path, write=True, wandb={"project": "p"})
