"""TPU slices by name: what there is, and what is told of the rest."""

import pytest

from siglip_jax.errors import UserError
from siglip_jax.plan import topology


@pytest.mark.parametrize(
    "name, match",
    [
        ("v9:2x2", "Known are v3, v4, v5e, v5p, v6e"),
        ("v4", "Known are"),
        ("v4:2x2", "has 3 sizes"),
        ("v4:2x2x0", "up to 256 chips"),
        ("v5e:32x32", "up to 256 chips"),
        ("v4:2xax1", "Unknown topology"),
    ],
)
def test_an_unknown_topology_lists_the_known_ones(name, match):
  with pytest.raises(UserError, match=match):
    topology.get(name)


@pytest.mark.parametrize(
    "system, machine, match",
    [
        ("Linux", "x86_64", r"pip install -e '\.\[plan\]'"),
        ("Darwin", "arm64", "Linux x86_64 only; this is Darwin arm64"),
    ],
)
def test_a_missing_libtpu_says_what_to_do(monkeypatch, system, machine, match):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  monkeypatch.setattr("platform.system", lambda: system)
  monkeypatch.setattr("platform.machine", lambda: machine)
  with pytest.raises(UserError, match=match):
    topology.get("v4:2x2x1")


@pytest.mark.parametrize(
    "name, chips, kind",
    [("v4:2x2x1", 4, "TPU v4"), ("v5e:4x4", 16, "TPU v5 lite")],
)
def test_a_slice_has_its_chips(slices, name, chips, kind):
  found = slices(name)
  assert (found.name, found.chips) == (name, chips)
  assert {d.device_kind for d in found.devices} == {kind}
  assert len(found.devices) == chips  # a device has both cores of a chip


def test_a_shape_that_the_compiler_has_not_is_named(slices):
  match = "libtpu has no topology 'v4:3x5x7' .*Known are v3, v4"
  with pytest.raises(UserError, match=match):
    slices("v4:3x5x7")
