"""What is due at each step, in which order it is done, and where a run ends."""

import contextlib
from unittest import mock

import ml_collections
import pytest

from siglip_jax.checkpoint import Checkpoints
from siglip_jax.evals import milestones
from siglip_jax.evals.evaluations import Evaluations
from siglip_jax.multihost.messages import Peers
from siglip_jax.multihost.phases import Phases
from siglip_jax.multihost.preemption import Interrupted
from siglip_jax.preflight.prepare import Prepared
from siglip_jax.preflight.start import Start
from siglip_jax.step import TrainState


@pytest.mark.parametrize(
    "step, state, evals, does",
    [
        # The first step: of a new run, of one that was evaluated, and not.
        (0, dict(done={"often", "rarely"}), "", ""),
        (0, dict(), "often rarely", ""),
        (8, dict(start=8, done={"often", "rarely"}), "", ""),
        (8, dict(start=8, done={"often"}), "rarely", ""),
        (8, dict(start=8), "often rarely", ""),
        (6, dict(start=6), "often", ""),
        (10, dict(start=10), "often", ""),  # saved there
        # Steps on the way; `done` is of the first step alone.
        (1, dict(), "", ""),
        (2, dict(), "often", "save"),
        (5, dict(), "", "save"),
        (8, dict(done={"often", "rarely"}), "often rarely", "save"),
        (10, dict(), "often", "save"),
        (7, dict(), "", "save"),  # kept for good
        # The last step evaluates and saves all, even where it is the first.
        (21, dict(), "often rarely", "save last"),
        (
            21,
            dict(start=21, done={"often", "rarely"}),
            "often rarely",
            "save last",
        ),
        (21, dict(stop=True), "often rarely", "save last"),
        # A stop saves at once, and leaves evaluations to the next start.
        (3, dict(stop=True), "", "save stop"),
        (8, dict(stop=True), "", "save stop"),
        (8, dict(start=8, stop=True), "", "save stop"),
        (0, dict(stop=True), "", "save stop"),
    ],
)
def test_what_is_due_at_a_step(step, state, evals, does):
  options = dict(start=0, stop=False, done=set()) | state
  got = milestones.due(
      step,
      total_steps=21,
      save_steps=5,
      keep_every=7,
      every_steps={"often": 2, "rarely": 8},
      **options,
  )
  assert got.evals == evals.split()
  flags = [f for f in ("save", "stop", "last") if getattr(got, f)]
  assert flags == does.split()


def stand_in(kind, **attributes):
  """Passes for an object of a type, with these attributes alone."""
  made = mock.NonCallableMock(spec=kind)
  for name, value in attributes.items():
    setattr(made, name, value)
  return made


@pytest.fixture
def reach(tmp_path):
  """Reaches step 10 with something due.

  Returns a list of what was done, and last, unless it failed, of why it ends.
  """

  def reach(now, *, fails=None, evaluate=True, lines=(), **config):
    log, results = [], {}

    def run(step, names, params):
      log.append(("run", step, *names))
      results.update(dict.fromkeys(names))
      if fails:
        raise fails

    def save(step, state, spec, *, examples, best):
      log.append(("save", step, examples, best))

    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    section = dict(best="", best_mode="")
    p = stand_in(
        Prepared,
        config=ml_collections.ConfigDict(
            dict(batch_size=4, ckpt=section) | config
        ),
        workdir=tmp_path,
        main=True,
        peers=Peers(),
        spec={},
    )
    state = stand_in(TrainState, params={})
    m = milestones.Milestones(
        p,
        Start(state=state, step=5, examples=100, resumed=True),
        stand_in(
            Checkpoints,
            save=save,
            wait=lambda: log.append(("wait",)),
            steps=lambda: [10, 5],
        ),
        stand_in(
            Evaluations, run=run, evaluators={"a": 0, "b": 0}, results=results
        ),
        Phases(),
        evaluate=evaluate,
    )
    with contextlib.suppress(ValueError):
      log.append(m.reach(10, state, now))
    return log

  return reach


def now(evals="", **flags):
  flags = dict(save=True, stop=False, last=False) | flags
  return milestones.Due(evals=evals.split(), **flags)


SAVE = ("save", 10, 120, None)  # 5 steps of 4 examples after the first 100


def test_a_step_is_on_disk_before_it_is_evaluated(reach):
  assert reach(now("a b")) == [SAVE, ("wait",), ("run", 10, "a", "b"), ""]
  assert reach(now("a", last=True))[-2:] == [("run", 10, "a"), "done"]
  assert reach(now()) == [SAVE, ""]
  assert reach(now(stop=True)) == [SAVE, "stop"]
  assert reach(now(save=False)) == [""]


def test_an_evaluation_that_fails_loses_no_step(reach):
  log = reach(now("a"), fails=ValueError("a bad image"))
  assert log == [SAVE, ("wait",), ("run", 10, "a")]


def test_an_evaluation_that_is_left_ends_the_run_saved(reach):
  # The first step of a run may not be saved yet; saving twice saves once.
  log = reach(now("a", save=False), fails=Interrupted())
  assert log == [("wait",), ("run", 10, "a"), SAVE, "stop"]
  assert reach(now("a", last=True), fails=Interrupted())[-1] == "stop"


SCORES = [
    f'{{"step": {step}, "retrieval/x/txt2img@1": {value}}}'
    for step, value in ((3, 0.5), (5, 0.4), (10, 0.3))
]
STOPPING = dict(
    metric="retrieval/x/txt2img@1", patience=2, mode="", min_delta=0.0
)


def test_a_run_that_no_longer_improves_ends_with_all_evaluated(reach):
  log = reach(now("a"), lines=SCORES, early_stopping=STOPPING)
  assert log[-3:] == [("wait",), ("run", 10, "b"), "early"]
  assert reach(now("a"), lines=SCORES[:2], early_stopping=STOPPING)[-1] == ""
  # Where another process evaluates, nothing is left to do here.
  log = reach(now(), lines=SCORES, early_stopping=STOPPING, evaluate=False)
  assert log == [SAVE, "early"]


def test_the_best_checkpoint_so_far_is_kept(reach):
  ckpt = dict(best="retrieval/x/txt2img@1", best_mode="")
  assert reach(now(), lines=SCORES, ckpt=ckpt)[0] == ("save", 10, 120, 5)
  ckpt["best_mode"] = "min"
  assert reach(now(), lines=SCORES, ckpt=ckpt)[0] == ("save", 10, 120, 10)
