"""The one table of hardware facts, and who reads it."""

from pathlib import Path

import pytest

from siglip_jax.models import attention
from siglip_jax.plan import chips


def test_the_scripts_have_the_table_as_it_is():
  assert (
      Path("tpu/chips.sh").read_text() == chips.as_bash()
  ), "python -m siglip_jax.plan.chips >tpu/chips.sh"


def test_a_new_chip_is_one_row(monkeypatch):
  row = dict(vars(chips.CHIPS["v6e"]), kind="TPU v9", vmem=99, mxu=512)
  row |= dict(accelerator="v9-8", runtime="v9-software")
  monkeypatch.setitem(chips.CHIPS, "v9", chips.Chip(**row))
  assert "v9" in chips.plannable()
  bash = chips.as_bash()
  assert "v9-*) echo v9-software ;;" in bash and "or v9-" in bash
  monkeypatch.setattr(attention, "_kind", lambda: "TPU v9")
  assert (attention._device().vmem, attention._device().mxu) == (99, 512)


@pytest.mark.parametrize(
    "kind, vmem, mxu, kernels",
    [
        ("TPU v3", 16, 128, False),
        ("TPU v4", 16, 128, True),
        ("TPU v5 lite", 128, 128, True),
        ("TPU v5", 64, 128, True),
        ("TPU v6 lite", 128, 256, True),
        ("TPU v99", 16, 128, True),  # unknown: the least
    ],
)
def test_kernels_are_made_for_the_device(kind, vmem, mxu, kernels):
  chip = chips.of_kind(kind)
  assert (chip.vmem, chip.mxu, chip.kernels) == (vmem, mxu, kernels)


def test_every_row_has_a_kind_and_an_accelerator_of_its_own():
  for attribute in ("kind", "prefix"):
    values = [getattr(chip, attribute) for chip in chips.CHIPS.values()]
    assert len(set(values)) == len(values)
