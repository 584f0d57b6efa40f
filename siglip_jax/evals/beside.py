"""Evaluations of a run's checkpoints, in a process beside its training.

They change nothing of the run but what they add: scores in metrics.jsonl. With
other evaluations or other data than the run's, scores go to a folder of their
own, evals/DIGEST of the workdir, with the config they were made with.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from collections.abc import Set
import contextlib
import hashlib
import json
from pathlib import Path
import time
from typing import Any

import ml_collections

from siglip_jax import metrics as metrics_lib
from siglip_jax import progress as progress_lib
from siglip_jax import workdir as workdir_lib
from siglip_jax.checkpoint import Checkpoints
from siglip_jax.checkpoint import Unreadable
from siglip_jax.config import check as config_check
from siglip_jax.config.changes import changes
from siglip_jax.errors import DONE
from siglip_jax.errors import TRY_AGAIN
from siglip_jax.errors import UserError
from siglip_jax.evals import of_run
from siglip_jax.multihost.messages import Peers
from siglip_jax.multihost.phases import Phases
from siglip_jax.multihost.preemption import Interrupted
from siglip_jax.multihost.preemption import Preemption
from siglip_jax.multihost.watchdog import Watchdog
from siglip_jax.preflight.claim import claim
from siglip_jax.preflight.prepare import Prepared
from siglip_jax.preflight.prepare import prepare
from siglip_jax.preflight.start import check_spec
from siglip_jax.preflight.start import previous_config
from siglip_jax.preflight.start import refuse_misfits

_POLL_SECONDS = 2.0
_AGREE_SECONDS = 600.0
_DELETE_SECONDS = 30.0  # a large checkpoint is not deleted at once
# The scores of a checkpoint depend on these fields and the data alone.
_DECISIVE = "evals preprocess model image_size text_len loss batch_size".split()


def evaluate_only(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    *,
    step: int | None = None,
) -> int:
  """Evaluates a checkpoint with all evaluators of a config.

  Args:
    config: the config, as returned by get_config of a file in configs/.
    workdir: the run's folder.
    step: step of the checkpoint; by default the newest.

  Returns:
    The exit status: DONE, or TRY_AGAIN if SIGTERM ended the evaluation.

  Raises:
    UserError: there is no such checkpoint, or it was trained otherwise.
    TryAgain: another process is missing.
  """
  config_check.validate(config)
  _check_any(config)
  phases, peers = Phases(), Peers()
  with Watchdog(phases, peers, **config.watchdog):
    preemption = Preemption(peers)
    _check_step(workdir, step)
    bench = _Bench(config, workdir, phases, preemption, peers)
    step, params = bench.choose(step)
    with bench.writing(asked=True):
      try:
        bench.evaluate(step, params)
      except Interrupted:
        return _interrupted(peers)
    if peers.index == 0:
      of_run.show(bench.p, bench.evals, bench.folder if bench.apart else None)
    return DONE


def watch(config: ml_collections.ConfigDict, workdir: str | Path) -> int:
  """Evaluates each new checkpoint of a run until the run has ended.

  A checkpoint whose scores are on file is not evaluated again. One that the run
  deletes before its turn, or that is damaged, is told and left out.

  Args:
    config: the run's config.
    workdir: the run's folder, which the run may not have made yet.

  Returns:
    The exit status: DONE, or TRY_AGAIN if SIGTERM ended the watch.

  Raises:
    UserError: the run was trained otherwise, or another process watches it.
    TryAgain: another process is missing.
  """
  config_check.validate(config)
  _check_any(config)
  phases, peers = Phases(), Peers()
  with (
      Watchdog(phases, peers, **config.watchdog),
      claim(workdir, peers, name="watch.json", what="--watch") as folder,
  ):
    preemption = Preemption(peers)
    try:
      with phases("waiting", 0):
        number, begun = 0, False
        while not begun:
          # Process 0 looks for all, which so ask `preemption` equally often.
          steps = Checkpoints(folder).steps()
          begun = _agree(peers, f"watch begins {number}", bool(steps))
          number += 1
          _pause(preemption, 0.0 if begun else _POLL_SECONDS)
      bench = _Bench(config, folder, phases, preemption, peers)
      with bench.writing():
        bench.follow()
    except Interrupted:
      return _interrupted(peers)
    if peers.index == 0:
      of_run.show(bench.p, bench.evals, bench.folder)
    return DONE


class _Bench:
  """A prepared run whose checkpoints are evaluated.

  Args:
    config: a validated config.
    workdir: the run's folder, with a checkpoint.
    phases: this process's phases.
    preemption: ends an evaluation early.
    peers: all processes.

  Attributes:
    p: the prepared run.
    evals: its evaluations.
    folder: the folder that scores go to.
    apart: whether that is a folder of their own.
  """

  def __init__(
      self,
      config: ml_collections.ConfigDict,
      workdir: str | Path,
      phases: Phases,
      preemption: Preemption,
      peers: Peers,
  ):
    self.p = prepare(config, workdir, peers, trains=False)
    self._phases, self._preemption = phases, preemption
    self._before = previous_config(self.p)
    self._checkpoints = Checkpoints(self.p.workdir, read_only=True, peers=peers)
    self.folder = _folder(self.p, self._before)
    self.apart = self.folder != self.p.workdir
    self._bar = progress_lib.Progress(
        total_steps=config.total_steps, show=self.p.main
    )

  @contextlib.contextmanager
  def writing(self, *, asked: bool = False) -> Iterator[None]:
    """Opens the metrics, and shows the progress, inside a `with` block.

    Args:
      asked: whether the scores are marked as asked for by somebody, so that
        nothing the run decides depends on them. W&B does not get those.
    """
    if self.apart and self.p.main:
      self.folder.mkdir(parents=True, exist_ok=True)
      workdir_lib.write_config(self.p.config, self.folder)
      print(f"Other evaluations than the run's: scores go to {self.folder}")
    own = self.apart or asked  # scores that are not the run's
    writer = metrics_lib.MetricWriter(
        self.folder,
        write=self.p.main,
        start=None,
        wandb=None if own else of_run.wandb(self.p.config),
        config=self.p.config.to_dict(),
    )
    self.evals = of_run.make(
        self.p,
        {},
        bar=self._bar,
        writer=writer,
        preemption=self._preemption,
        folder=self.folder,
        asked=asked,
    )
    with writer, self._bar:
      yield

  def choose(self, step: int | None) -> tuple[int, dict]:
    """Returns a step and its parameters: the step asked for, or the newest.

    If the newest is deleted meanwhile, the next one is taken.

    Raises:
      UserError: there is none, or it does not fit the config.
    """
    number = 0
    while True:
      steps = self._checkpoints.steps()
      chosen = step
      if step is None:
        newest = steps[0] if steps else None
        chosen = _agree(self.p.peers, f"choose {number}", newest)
      _check_step(self.p.workdir, chosen)
      assert chosen is not None
      try:
        return chosen, self.restore(chosen)
      except Unreadable:
        number += 1
        if step is not None or not self._is_gone(chosen, number):
          raise

  def restore(self, step: int) -> dict:
    """Returns the parameters of a checkpoint that fits the config.

    Raises:
      Unreadable: it cannot be read.
      UserError: it does not fit.
    """
    with self._phases("start", step):
      shapes = self.p.run.state_shapes
      changed = changes(self._before, self.p.config.to_dict())
      refuse_misfits(
          self._checkpoints.misfits(shapes, step, params_only=True),
          changed if self._before else (),
      )
      params, spec = self._checkpoints.restore_params(shapes.params, step)
      check_spec(spec, self.p.spec, self._before)
    return params

  def evaluate(
      self, step: int, params: dict, names: Sequence[str] | None = None
  ) -> None:
    """Evaluates parameters, by default with all evaluators."""
    names = list(self.evals.evaluators) if names is None else names
    with self._phases("eval", step):
      self.evals.run(step, names, params)

  def follow(self) -> None:
    """Evaluates each new checkpoint, oldest first, until the run has ended."""
    number, last, left_out = 0, 0, set[int]()
    while True:
      number += 1
      step, names, ended = self._look(number, left_out)
      if step is None:
        if ended:
          break
        with self._phases("waiting", last):
          _pause(self._preemption)
        continue
      last = step
      try:
        params = self.restore(step)
      except Unreadable:
        left_out.add(step)
        gone = self._is_gone(step, number)
        if self.p.main:
          what = "was deleted before it was evaluated" if gone else "is damaged"
          print(f"Checkpoint {step} {what}: left out.")
        continue
      self.evaluate(step, params, names)
    # The report shows what was evaluated last, perhaps by an earlier watch.
    results = self.evals.results
    if names := [n for n in self.evals.evaluators if n not in results]:
      newest, params = self.choose(None)
      self.evaluate(newest, params, names)

  def _look(
      self, number: int, left_out: Set[int]
  ) -> tuple[int | None, list[str], bool]:
    """Returns the next step, its evaluators, and whether the run has ended."""
    choice: list[Any] = [None, [], False]
    if self.p.main:
      # The end comes first: what it left is then seen.
      choice[2] = self._ended()
      history = metrics_lib.read_own(self.folder)
      for step in reversed(self._checkpoints.steps()):
        done = metrics_lib.evaluated(history, step) | (
            set(self.evals.evaluators) if step in left_out else set()
        )
        if names := [n for n in self.evals.evaluators if n not in done]:
          choice[:2] = step, names
          break
    step, names, ended = _agree(self.p.peers, f"watch {number}", choice)
    return step, names, ended

  def _ended(self) -> bool:
    """Whether the run has made its last checkpoint."""
    if workdir_lib.read_starts(self.p.workdir):
      return workdir_lib.has_ended(self.p.workdir)
    total = workdir_lib.read_config(self.p.workdir).total_steps
    return total in self._checkpoints.steps()  # a run of an earlier version

  def _is_gone(self, step: int, number: int) -> bool:
    """Whether an unreadable checkpoint is deleted, which takes some time."""
    end, gone = time.monotonic() + _DELETE_SECONDS, False
    while self.p.main and not gone and time.monotonic() < end:
      gone = step not in self._checkpoints.steps()
      time.sleep(0.1)
    return _agree(self.p.peers, f"gone {step} {number}", gone)


def _folder(p: Prepared, before: Mapping[str, Any]) -> Path:
  """Returns the folder that scores go to: the run's, if they are the run's."""
  here = _decisive(p.config.to_dict())
  starts = workdir_lib.read_starts(p.workdir)
  data = {k: v for start in starts for k, v in start.get("evals", {}).items()}
  same_data = all(data.get(k, v) == v for k, v in p.eval_digests.items())
  if before and _decisive(before) == here and same_data:
    return p.workdir
  text = json.dumps([here, dict(p.eval_digests)], sort_keys=True)
  digest = hashlib.sha256(text.encode()).hexdigest()[:8]
  return p.workdir / "evals" / digest


def _decisive(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields that scores depend on, as JSON has them."""
  fields = {k: config[k] for k in _DECISIVE}
  fields["evals"] = {
      name: {k: v for k, v in section.items() if k != "every_steps"}
      for name, section in fields["evals"].items()
  }
  return json.loads(json.dumps(fields, default=str))


def _check_any(config: ml_collections.ConfigDict) -> None:
  """Raises UserError if there is nothing to evaluate."""
  if not config.evals:
    raise UserError(
        "config.evals must name at least one evaluation; it is empty, so there"
        " is nothing to do."
    )


def _check_step(workdir: str | Path, step: int | None) -> None:
  """Raises UserError unless a workdir has the step, or any if it is None."""
  steps = Checkpoints(workdir_lib.local(workdir)).steps()
  if not steps:
    raise UserError("--eval_only needs a checkpoint; the workdir has none.")
  if step is not None and step not in steps:
    kept = ", ".join(map(str, reversed(steps)))
    raise UserError(
        f"--step must be one of the checkpoints that {workdir} keeps ({kept});"
        f" got {step}."
    )


def _agree(peers: Peers, topic: str, value: Any) -> Any:
  """Returns process 0's value; the processes do not see the same disk."""
  if peers.count == 1:
    return value
  return peers.gather(topic, value, seconds=_AGREE_SECONDS)[0]


def _pause(preemption: Preemption, seconds: float = _POLL_SECONDS) -> None:
  if preemption.reached():
    raise Interrupted
  time.sleep(seconds)


def _interrupted(peers: Peers) -> int:
  if peers.index == 0:
    print("Stopped by SIGTERM. The same command evaluates what is left.")
  return TRY_AGAIN
