"""Evaluations beside a run: they add scores, and change nothing else."""

import json
import re
import shutil

import pytest


@pytest.fixture
def main(command, place):
  """Runs the main command on tiny.py, and returns what it printed."""

  def main(workdir, *flags, status=0):
    done = command.run(
        "siglip_jax.main",
        f"--config={place / 'tiny.py'}",
        f"--workdir={workdir}",
        *flags,
        status=status,
    )
    assert "Traceback" not in done.err
    return done.out + done.err

  return main


@pytest.fixture
def copy(trained, tmp_path):
  return shutil.copytree(trained, tmp_path / "copy")


def contents(workdir):
  """Name -> bytes of every file but the events for TensorBoard."""
  return {
      str(p.relative_to(workdir)): p.read_bytes()
      for p in workdir.rglob("*")
      if p.is_file() and not p.name.startswith("events.")
  }


def lines(workdir):
  path = workdir / "metrics.jsonl"
  return [json.loads(line) for line in path.read_text().splitlines()]


def scores(line):
  return {
      k: v
      for k, v in line.items()
      if not k.endswith("/seconds") and k != "eval/asked"
  }


def test_the_same_scores_are_not_added_again(main, copy):
  before = contents(copy)
  out = main(copy, "--eval_only")
  assert "zeroshot/colors/top1" in out and "step 12" not in out
  assert contents(copy) == before and not (copy / "evals").exists()


def test_scores_that_are_missing_are_added_and_nothing_else(main, copy):
  path = copy / "metrics.jsonl"
  *others, last = path.read_text().splitlines(keepends=True)
  # A run that trains has gone on meanwhile; its lines stay.
  path.write_text("".join(others) + '{"step": 13, "train/loss": 1.0}\n')
  before = contents(copy)
  main(copy, "--eval_only", "--config.optim.lr=7.0", "--config.total_steps=5")
  after = contents(copy)
  added = after.pop("metrics.jsonl").removeprefix(before.pop("metrics.jsonl"))
  assert scores(json.loads(added)) == scores(json.loads(last))
  assert "eval/asked" in json.loads(added)  # the run decides without it
  assert after == before


def test_other_data_or_evaluations_have_files_of_their_own(main, copy):
  before = contents(copy)
  out = main(copy, "--eval_only", "--config.evals.colors.split=train")
  (folder,) = [p for p in (copy / "evals").iterdir() if p.is_dir()]
  assert f"scores go to {folder}" in out
  after = contents(copy)
  names = {n for n in after if n not in before}
  own = {"config.json", "metrics.jsonl", "report.html"}
  assert names == {f"evals/{folder.name}/{n}" for n in own}
  assert before.items() <= after.items()
  ((line),) = lines(folder)
  assert line["step"] == 12 and "zeroshot/colors/top1" in line
  assert (
      json.loads((folder / "config.json").read_text())["evals"]["colors"][
          "split"
      ]
      == "train"
  )
  # Twice the same evaluation is one folder and one line.
  main(copy, "--eval_only", "--config.evals.colors.split=train")
  assert len(lines(folder)) == 1
  # Data that changed behind an unchanged config are other data.
  starts = copy / "starts.jsonl"
  start = json.loads(starts.read_text().splitlines()[0])
  start["evals"]["colors"] = "another digest"
  starts.write_text(json.dumps(start) + "\n")
  assert "scores go to " in main(copy, "--eval_only")


@pytest.mark.parametrize(
    "flag, match",
    [
        (
            "--config.model.text.pool_type=gap",
            "was trained with model.text.pool_type = 'last', this config",
        ),
        (
            "--config.model.text.width=64",
            r"is float32\[400, 32\] in the checkpoint and float32\[400, 64\] "
            r".* Changed since .*: model.text.width = 64, was 32\. Change back",
        ),
        ("--step=11", r"--step must be one of .*copy keeps \(10, 12\); got 11"),
    ],
)
def test_another_model_is_refused_and_nothing_changes(
    command, place, copy, flag, match
):
  before = contents(copy)
  message = command.refuse(
      "siglip_jax.main",
      f"--config={place / 'tiny.py'}",
      f"--workdir={copy}",
      "--eval_only",
      "--config.evals.colors.split=train",
      flag,
  )
  assert re.search(match, message), message
  assert contents(copy) == before and not (copy / "evals").exists()


def test_another_type_or_way_to_compute_is_not_another_model(main, copy):
  flags = "--config.model.dtype=bfloat16", "--config.model.remat=full"
  assert "scores go to" in main(copy, "--eval_only", *flags)


def test_any_kept_step_is_evaluated(main, copy):
  before = lines(copy)
  path = copy / "metrics.jsonl"
  path.write_text("".join(path.read_text().splitlines(keepends=True)[:8]))
  main(copy, "--eval_only", "--step=10")
  assert scores(lines(copy)[-1]) == scores(
      next(x for x in before if x["step"] == 10 and "zeroshot" in str(x))
  )


def test_a_watch_evaluates_what_the_run_saves(
    main, command, place, tmp_path, trained
):
  workdir = tmp_path / "run"
  flags = (
      f"--config={place / 'tiny.py'}",
      f"--workdir={workdir}",
      "--config.ckpt.keep_every=4",
  )
  watch = command.start("siglip_jax.main", *flags, "--watch")
  out = main(workdir, "--noevaluate", "--config.ckpt.keep_every=4")
  assert "zeroshot" not in out
  done = watch.wait(status=0)
  assert "zeroshot/colors/top1" in done.out and "Report:" in done.out
  evaluated = [x for x in lines(workdir) if "eval/colors/seconds" in x]
  assert [x["step"] for x in evaluated] == [4, 8, 12]
  assert scores(evaluated[-1]) == scores(lines(trained)[-1])
  assert (
      not list(workdir.glob("*lock*")) and not (workdir / "watch.json").exists()
  )
  # A later watch finds all done, and shows the end again.
  before = contents(workdir)
  assert "zeroshot/colors/top1" in main(workdir, *flags[2:], "--watch")
  after = contents(workdir)
  assert after.keys() == before.keys()
  assert after["metrics.jsonl"] == before["metrics.jsonl"]


def test_what_excludes_each_other_is_refused(command, place):
  flags = f"--config={place / 'tiny.py'}", f"--workdir={place / 'nothing'}"
  message = command.refuse("siglip_jax.main", *flags, "--watch", "--eval_only")
  assert "exclude each other" in message
  for flag in ("--watch", "--eval_only"):
    message = command.refuse(
        "siglip_jax.main", *flags, flag, "--config.evals={}"
    )
    assert "config.evals must name at least one evaluation" in message
    message = command.refuse("siglip_jax.main", *flags, flag, "--noevaluate")
    assert "--noevaluate is for training" in message
  message = command.refuse("siglip_jax.main", *flags, "--step=3")
  assert "--step is for --eval_only" in message
  assert not (place / "nothing").exists()
