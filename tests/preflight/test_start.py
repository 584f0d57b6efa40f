"""Where a run starts, and what a start that is refused leaves alone."""

import json
import shutil


def contents(workdir):
  """The bytes of every file."""
  return {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}


def test_fewer_steps_than_are_done_change_nothing(place, command, trained):
  workdir = shutil.copytree(trained, place / "shorter")
  before = contents(workdir)
  message = command.refuse(
      "siglip_jax.main",
      f"--config={place / 'tiny.py'}",
      f"--workdir={workdir}",
      "--config.total_steps=5",
  )
  assert "has made 12 steps, and config.total_steps = 5 is fewer" in message
  assert contents(workdir) == before


def test_another_length_of_texts_is_refused_by_name(place, command, trained):
  workdir = shutil.copytree(trained, place / "longer")
  spec = workdir / "checkpoints" / "12" / "spec" / "metadata"
  shutil.rmtree(workdir / "checkpoints" / "12" / "about")  # its checksum
  spec.write_text(json.dumps(json.loads(spec.read_text()) | {"text_len": 9}))
  before = contents(workdir)
  message = command.refuse(
      "siglip_jax.main",
      f"--config={place / 'tiny.py'}",
      f"--workdir={workdir}",
  )
  assert "was trained with text_len = 9, this config has 8" in message
  assert contents(workdir) == before


def test_there_is_nothing_to_evaluate_before_a_run(place, command):
  message = command.refuse(
      "siglip_jax.main",
      f"--config={place / 'tiny.py'}",
      f"--workdir={place / 'fresh'}",
      "--eval_only",
  )
  assert "--eval_only needs a checkpoint; the workdir has none" in message
  assert not (place / "fresh" / "config.json").exists()
