"""python -m siglip_jax.preflight: a line for each worker, or what is wrong."""

import shutil


def test_the_command_prints_what_it_found(command, place, tmp_path):
  done = command.run(
      "siglip_jax.preflight",
      f"--config={place / 'tiny.py'}",
      f"--workdir={tmp_path}",
      status=0,
  )
  assert "worker 0 (" in done.out and "1 of 1 ready, 1 devices." in done.out
  assert "Captions (47 of 47 read): 100.0% cut at text_len = 8" in done.out
  assert "the loss ring_sigmoid cannot fall below" in done.err
  assert not list(tmp_path.iterdir())
  refuse = command.refuse("siglip_jax.preflight", f"--workdir={tmp_path}")
  assert "--config=configs/NAME.py is needed" in refuse


def test_without_a_workdir_nothing_is_checked(command, place):
  refuse = command.refuse(
      "siglip_jax.preflight", f"--config={place / 'tiny.py'}"
  )
  assert "--workdir=DIR is needed" in refuse


def test_what_training_would_refuse_is_refused(command, place, tmp_path):
  refuse = command.refuse(
      "siglip_jax.preflight",
      f"--config={place / 'tiny.py'}",
      f"--workdir={tmp_path}",
      "--config.data.split=tran",
  )
  assert "all, train or validation; got 'tran'" in refuse


def test_an_image_that_evaluation_needs_is_tried(command, place, tmp_path):
  images = shutil.copytree(place / "images", tmp_path / "images")
  for path in images.glob("*.png"):
    path.write_bytes(path.read_bytes()[:40])
  refuse = command.refuse(
      "siglip_jax.preflight",
      f"--config={place / 'tiny.py'}",
      f"--workdir={tmp_path / 'run'}",
      f"--config.evals.colors.path={images}",
  )
  assert "1 of config.evals.colors cannot be read: " in refuse
