"""Whether images are there; tests/data/test_captions.py has more of it."""

import pytest

from siglip_jax.data.tables import places


@pytest.fixture
def folder(tmp_path):
  for name in ("in/a.png", "in/s/b.png", "out/c.png"):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
  (tmp_path / "in/linked").symlink_to(tmp_path / "out")
  return tmp_path / "in"


def test_paths_that_lead_out_are_told_apart_if_they_must_stay(folder):
  away = {"../out/c.png", "s/../../out/c.png", f"{folder.parent}/out/c.png"}
  near = {"a.png", "s/../a.png", "./s//b.png", f"{folder}/a.png"}
  paths = [*away, *near, "linked/c.png", "linked/d.png", "s", "s/x.png"]
  missing, outside = places.look_up(folder, paths, "", inside=True)
  assert outside == away and missing == {"linked/d.png", "s", "s/x.png"}
  missing, outside = places.look_up(folder, paths, "", inside=False)
  assert not outside and missing == {"linked/d.png", "s", "s/x.png"}


def test_a_link_does_not_make_a_way_back_out(folder):
  path = "linked/../out/c.png"  # which is there, as the system walks
  missing, outside = places.look_up(folder, [path], "", inside=True)
  assert outside == {path} and not missing
