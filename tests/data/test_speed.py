"""The rates of a host: what is measured, and what is said of a plan's need."""

import json

import fakes
import pytest

from siglip_jax.config import check
from siglip_jax.data import speed
from siglip_jax.data.images import ImageError
from siglip_jax.errors import UserError


@pytest.fixture(scope="module")
def config(place):
  config = fakes.tiny(place / "images", place / "tokenizer.model")
  check.fill(config, [])
  return config


def rates(**changes):
  found = dict(
      reads=2, read=9000.0, images=500.0, texts=1e6, loader=950.0, unreadable=0
  )
  return speed.Speed(**(found | changes))


def test_each_stage_and_the_loader_are_timed(config):
  got = speed.measure(config, examples=20, seconds=0.05)
  assert got.reads == config.data.num_threads
  assert min(got.read, got.images, got.texts, got.loader) > 0
  assert got.unreadable == 0


def test_records_that_cannot_be_read_are_counted(config, monkeypatch):
  class Torn(fakes.ListSource):

    def __getitem__(self, index):
      if index % 2:
        raise ImageError("torn")
      return super().__getitem__(index)

  image = {"image": fakes.png((1, 2, 3), 32), "text": "red"}
  broken = {"image": b"", "text": "red"}
  source = Torn([image, image, image, image, broken, image])
  monkeypatch.setattr(
      speed.config_sources, "train_source", lambda config: source
  )
  assert speed.measure(config, 20, 0.01).unreadable == 4
  with pytest.raises(UserError, match="None of 1 records .* the first is"):
    monkeypatch.setattr(speed, "_read", lambda *a: [])
    speed.measure(config, 1, 0.01)


def test_a_need_is_met_or_the_advice_is_given(capsys):
  assert speed.show(rates(), None) == 0
  assert "needed" not in capsys.readouterr().out
  assert speed.show(rates(unreadable=3), 475.0) == 0
  text = capsys.readouterr().out
  assert "makes 2.0 times what the step needs" in text
  assert "3 records could not be read" in text
  assert speed.show(rates(), 3800.0) == 1
  text = capsys.readouterr().out
  assert "makes 25% of what the step needs" in text
  assert "It takes 8 cores" in text and "needed by the step" in text


def test_the_need_is_the_plans(config, tmp_path):
  path = tmp_path / "plan.json"
  path.write_text(json.dumps({"host_images_per_second": 3938.0}))
  assert speed._need(config, str(path), None) == 3938.0
  assert speed._need(config, None, None) is None
  path.write_text(json.dumps({"host_images_per_second": None}))
  with pytest.raises(UserError, match="must fit in the TPU's memory"):
    speed._need(config, str(path), None)


def test_the_need_of_a_slice_is_planned(config, monkeypatch):
  class Plan:
    host_images_per_second = 12.0

  monkeypatch.setattr(
      speed.plan_command, "plan", lambda config, where: Plan if where else None
  )
  monkeypatch.setattr(speed.topology, "get", lambda name: name == "v4:2x2x1")
  assert speed._need(config, None, "v4:2x2x1") == 12.0


@pytest.mark.parametrize("text", ["", "3", "{}", "{"])
def test_a_file_that_is_not_a_plan_is_named(config, tmp_path, text):
  path = tmp_path / "plan.json"
  path.write_text(text)
  with pytest.raises(UserError, match="--plan=.*plan.json"):
    speed._need(config, str(path), None)


def test_the_command(command, place):
  tiny = f"--config={place / 'tiny.py'}"
  done = command.run(
      "siglip_jax.data.speed", tiny, "--examples=8", "--seconds=0.1", status=0
  )
  for stage in ("read, 2 at a time", "decode and resize", "tokenize", "loader"):
    assert stage in done.out
  done = command.run(
      "siglip_jax.data.speed", tiny, "--plan=a", "--topology=b", status=2
  )
  assert "--plan=FILE or --topology=SLICE, not both" in done.err
