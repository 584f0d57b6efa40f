"""The short form of benchmarks/starts.py, and how it judges."""

import ast
import importlib.util
import json
import random
import shutil

import pytest

CONFIG = {
    "total_steps": 4,
    "log_steps": 2,
    "optim": {"lr": 0.1, "schedule": [[".*", {"decay": "none"}]]},
    "evals": {"e": {"type": "zeroshot", "dataset": "d", "every_steps": 4}},
    "data": {"path": "images", "pp": "decode|lower|tokenize(max_len=8)"},
    "preprocess": {"image": "decode|resize(16)", "text": "tokenize(max_len=8)"},
}
LR = "optim.lr = 0.2, was 0.1"


@pytest.fixture(scope="module")
def starts():
  """The script, which imports its neighbors."""
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend("benchmarks")
    spec = importlib.util.spec_from_file_location(
        "starts", "benchmarks/starts.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module


def lines(*values):
  return "".join(json.dumps(value) + "\n" for value in values).encode()


def logged(*steps):
  return [{"step": step, "train/loss": 1.0} for step in steps]


SCORES = {"step": 4, "d/top1": 0.5, "eval/e/seconds": 1.0}
BEFORE = {
    "images": None,
    "images/a.png": b"image",
    "now": None,
    "now/config.json": lines(CONFIG),
    "now/starts.jsonl": lines({"step": 0, "changed": []}),
    "now/metrics.jsonl": lines(*logged(2)),
    "now/checkpoints/2": None,
}
END = {"ended at step": 4}
NEW = {**CONFIG, "optim": {**CONFIG["optim"], "lr": 0.2}}
AFTER = {
    **BEFORE,
    "now/config.json": lines(NEW),
    "now/config.1.json": BEFORE["now/config.json"],
    "now/starts.jsonl": BEFORE["now/starts.jsonl"]
    + lines({"step": 2, "changed": [LR]}, END),
    "now/metrics.jsonl": lines(*logged(2, 4), SCORES),
    "now/checkpoints/4": None,
    "now/report.html": f"<section>{LR}</section>\n".encode(),
}
ERROR = "error: config.optim.lr must be a number from 0 up; got -1.\n"


def judge(
    starts, *, command="train", changes=(("optim.lr", "0.2"),), **outcome
):
  """The kind and the problems of a start; a good one but for `outcome`."""
  out = f"resumed with {LR}\n"
  resumed = dict(status=0, out=out, err="", before=BEFORE, after=AFTER)
  flags = [starts.Flag(kind="x", field=f, text=t) for f, t in changes]
  verdict = starts.start_verdicts.judge(
      command, flags, starts.Outcome(**{**resumed, **outcome}), "now/"
  )
  return verdict.kind, " ".join(verdict.problems)


def refusal(starts, **outcome):
  good = dict(status=2, out="", err=ERROR, after=BEFORE)
  return judge(starts, **{**good, **outcome})


def without(path):
  return {k: v for k, v in AFTER.items() if k != path}


def test_a_start_resumes_or_refuses(starts):
  assert judge(starts) == ("resumed", "")
  assert refusal(starts) == ("refused", "")
  diverged = (
      "a warning\nerror: The loss or its gradient stopped being finite.\n"
  )
  ended = without("now/report.html")  # which a run writes at its end
  begun = AFTER["now/starts.jsonl"].removesuffix(lines(END))
  ended |= {"now/starts.jsonl": begun}
  assert judge(starts, status=2, err=diverged, after=ended)[0] == "diverged"


@pytest.mark.parametrize(
    "outcome, problem",
    [
        (dict(status=1, err="Traceback ...\nKeyError: 1\n"), "a traceback"),
        (dict(status=1, err=""), "status 1"),
        (dict(status=75), "status 75"),
        (dict(status=-11), "status -11"),
        (dict(status=None), "too long"),
        (dict(err="warning\n" + ERROR), "2 lines"),
        (dict(err=ERROR + "warning\n"), "2 lines"),
        (dict(err=""), "0 lines"),
        (dict(err="Error: no\n"), "1 lines"),
        (dict(after={**BEFORE, "now/lock.json": b"{}"}), "lock.json changed"),
        (dict(after={**BEFORE, "now/evals": None}), "now/evals changed"),
        (dict(after={**BEFORE, "images/a.png": b""}), "a.png changed"),
        (dict(after={}), "now/config.json changed"),
        (dict(command="eval_only", after=AFTER), "config.json changed"),
    ],
)
def test_a_wrong_refusal_is_seen(starts, outcome, problem):
  kind, problems = refusal(starts, **outcome)
  assert kind == "failed" and problem in problems


def after(name, *values):
  return dict(after={**AFTER, f"now/{name}": lines(*values)})


@pytest.mark.parametrize(
    "outcome, problem",
    [
        (dict(err=ERROR), "status 0 with an error"),
        (dict(out=""), "optim.lr: (new, old)"),
        (dict(out="resumed with optim.lr = 0.3, was 0.1\n"), "0.3"),
        (dict(changes=[("optim.lr", "0.2"), ("seed", "3")]), "seed=3 has no"),
        (dict(changes=[]), "no flag changes it"),
        (dict(after=without("now/config.1.json")), "copies of the old config"),
        (after("config.1.json", NEW), "copies of the old config"),
        (dict(after={**AFTER, "now/lock.json": b""}), "lock.json changed"),
        (dict(after={**AFTER, "now/config.json.part": b""}), ".part changed"),
        (dict(after={**AFTER, "images/b.png": b""}), "b.png changed"),
        (dict(after=without("now/report.html")), "report.html has no end"),
        (after("starts.jsonl", {"step": 2, "changed": [LR]}), "not grown"),
        (
            dict(
                after=AFTER
                | {"now/starts.jsonl": AFTER["now/starts.jsonl"] + lines(END)}
            ),
            "starts.jsonl has the new lines",
        ),
        (
            dict(after={**AFTER, "now/report.html": b"<section></section>"}),
            "report.html does not tell",
        ),
        (
            dict(
                after=AFTER
                | {
                    "now/starts.jsonl": BEFORE["now/starts.jsonl"]
                    + lines({"step": 2, "changed": []}, END)
                }
            ),
            "starts.jsonl says []",
        ),
        (after("metrics.jsonl", *logged(2, 4)), "e is not evaluated"),
        (after("metrics.jsonl", *logged(2), SCORES), "steps [] are logged"),
        (after("metrics.jsonl", *logged(2, 4, 4), SCORES), "[4, 4] are"),
        (after("metrics.jsonl", *logged(4), SCORES), "up to step 2 changed"),
        (
            after(
                "metrics.jsonl",
                *logged(2, 4),
                SCORES,
                SCORES | {"eval/e/seconds": 2.0},
            ),
            "twice",
        ),
        (dict(after=without("now/checkpoints/4")), "no checkpoint of step 4"),
    ],
)
def test_a_wrong_resumption_is_seen(starts, outcome, problem):
  kind, problems = judge(starts, **outcome)
  assert kind == "failed" and problem in problems


def test_an_evaluation_may_only_add_scores(starts):
  check = lambda **after: judge(
      starts, command="eval_only", out="", after={**BEFORE, **after}
  )
  grown = BEFORE["now/metrics.jsonl"] + lines(SCORES)
  apart = {
      "now/evals": None,
      "now/evals/0a1b2c3d": None,
      "now/evals/0a1b2c3d/config.json": lines(NEW),
      "now/evals/0a1b2c3d/metrics.jsonl": lines(SCORES),
  }
  assert check() == ("resumed", "")
  assert check(**{"now/metrics.jsonl": grown}) == ("resumed", "")
  assert check(**apart) == ("resumed", "")
  for files, problem in (
      ({"now/metrics.jsonl": lines(SCORES)}, "by whole lines"),
      ({"now/metrics.jsonl": grown[:-1]}, "by whole lines"),
      ({"now/metrics.jsonl": grown + lines(*logged(4))}, "line of training"),
      ({"now/config.json": lines(NEW)}, "config.json changed"),
      ({"now/report.html": b""}, "report.html changed"),
      ({"now/evals/0a1b2c3d/config.json": b"{}"}, "has no metrics.jsonl"),
      (apart | {"now/metrics.jsonl": grown}, "two files"),
  ):
    kind, problems = check(**files)
    assert kind == "failed" and problem in problems


def test_a_preflight_changes_nothing(starts):
  assert judge(starts, command="preflight", out="", after=BEFORE)[0] == (
      "resumed"
  )
  kind, problems = judge(starts, command="preflight", out="")
  assert kind == "failed" and "now/config.json changed" in problems


@pytest.mark.parametrize(
    "field, text, differs",
    [
        ("optim.lr", "0.10", False),
        ("optim.lr", "1", True),
        ("optim.schedule", "[('.*', {'decay': 'none'})]", False),
        ("optim.schedule[0][1].decay", "none", False),
        ("optim.schedule[0][1].decay", "linear", True),
        ("optim.schedule[2]", "1", True),
        ("early_stopping.patience", "1", True),
        ("evals.e.every_steps", "4", False),
    ],
)
def test_a_flag_differs_if_its_value_does(starts, field, text, differs):
  flag = starts.Flag(kind="x", field=field, text=text)
  assert starts.start_verdicts.flag_differs(flag, CONFIG) == differs


def test_changes_are_drawn_from_the_whole_config_and_repeat(starts):
  table = starts.start_values.fields(CONFIG, "/place")
  assert all(field.plausible or field.absurd for field in table)
  names = {field.name.partition(".")[0] for field in table}
  assert {*CONFIG, "model", "loss", "mesh", "sharding", "init"} <= names
  draw = lambda number: starts.start_values.draw(
      random.Random(number), table, CONFIG
  )
  flags = [flag for number in range(300) for flag in draw(number)]
  assert draw(17) == draw(17) != draw(18)
  assert {"types", "typos", "evals", "optim"} <= {flag.kind for flag in flags}
  literal = next(f.text for f in flags if f.field == "evals.more")
  assert ast.literal_eval(literal)["dataset"] == "more"


def test_the_table_counts_a_start_once_for_each_kind(starts):
  flags = [
      starts.Flag(kind=kind, field=kind, text="1") for kind in ("a", "a", "b")
  ]
  start = starts.Start(number=3, run="half", command="train", changes=flags)
  verdict = starts.Verdict(kind="failed", problems=["it broke"])
  rows = starts.table([(start, verdict)] * 2).splitlines()
  assert [row.split() for row in rows[1:]] == [
      [*name.split(), "0", "0", "0", "2"]
      for name in ("--train", "a", "b", "all starts")
  ]
  outcome = starts.Outcome(status=1, out="", err="last", before={}, after={})
  text = starts.failure(start, verdict, outcome)
  assert "3 (train, half): '--config.a=1'" in text
  assert "it broke" in text and "| last" in text


def test_starts_of_the_command_are_judged(
    starts, command, place, trained, tmp_path
):
  folder = tmp_path / "place"
  shutil.copytree(trained, folder / "runs/finished")

  def launch(module, arguments, seconds):
    return starts.in_time(command.start(module, *arguments), seconds)

  runs = starts.Place(folder, launch, str(place / "tiny.py"))
  config = json.loads((trained / "config.json").read_bytes())
  runs.configs["finished"] = config
  for changes, kind in (
      ({"total_steps": "8"}, "refused"),
      ({"optim.lr": "0.01", "log_steps": "1"}, "resumed"),
  ):
    flags = [
        starts.Flag(kind="x", field=field, text=text)
        for field, text in changes.items()
    ]
    start = starts.Start(
        number=0, run="finished", command="train", changes=flags
    )
    verdict, outcome = runs.judge(start)
    assert verdict.kind == kind, (verdict, outcome.err)


def test_a_start_that_takes_too_long_is_stopped(starts, command):
  running = command.start("timeit", "-n1", "-r1", "import time; time.sleep(60)")
  status, out, err = starts.in_time(running, 0.5)
  assert status is None and not out and not err
