"""Judges a start of a run: did it resume, or refuse, as it should?

A start that resumes tells each changed field and leaves a whole run. A start
that refuses says so in one line and changes nothing on disk. Both are judged by
what was on disk before and after it.
"""

import ast
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import html
import json
import re
from typing import Any

from start_values import Flag
from start_values import leaves

from siglip_jax.errors import BAD_INPUT
from siglip_jax.errors import DONE

# Path -> content; None for a folder.
Disk = Mapping[str, bytes | None]
TRAIN, EVAL, PREFLIGHT = "train", "eval_only", "preflight"
RESUMED, REFUSED, DIVERGED, FAILED = "resumed", "refused", "diverged", "failed"
_UNSET = "unset"
_LINE = r"resumed with (\S+) = (.*), was (.*)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
  """The end of a start.

  Attributes:
    status: exit status; None if it was stopped because it took too long.
    out: its standard output.
    err: its standard error.
    before: files before it.
    after: files after it.
  """

  status: int | None
  out: str
  err: str
  before: Disk
  after: Disk


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
  """The kind of an outcome, and all that is wrong with it."""

  kind: str
  problems: Sequence[str] = ()


def judge(
    command: str, flags: Sequence[Flag], outcome: Outcome, run: str
) -> Verdict:
  """Returns the verdict on a start.

  Args:
    command: TRAIN, EVAL or PREFLIGHT.
    flags: the changes of the config.
    outcome: how it ended.
    run: path of the workdir, as a prefix of paths in the outcome.
  """
  problems = list(_of_output(outcome))
  if outcome.status == BAD_INPUT and _diverged(outcome.err):
    problems += _of_resumed(flags, outcome, run, whole=False)
    kind = DIVERGED
  elif outcome.status == BAD_INPUT:
    problems += [f"{p} changed" for p in changed(outcome)]
    kind = REFUSED
  elif outcome.status != DONE:
    return Verdict(kind=FAILED, problems=problems)
  else:
    judges = {TRAIN: _of_resumed, EVAL: _of_evaluated, PREFLIGHT: _of_preflight}
    problems += judges[command](flags, outcome, run)
    kind = RESUMED
  if problems:
    return Verdict(kind=FAILED, problems=problems)
  return Verdict(kind=kind)


def changed(outcome: Outcome) -> list[str]:
  """Returns the paths that appeared, disappeared or have another content."""
  before, after = outcome.before, outcome.after
  return [
      path
      for path in sorted(before.keys() | after.keys())
      if (path in before, before.get(path)) != (path in after, after.get(path))
  ]


def told(out: str) -> dict[str, tuple[Any, Any]]:
  """Returns field -> (new, old) of the lines about changed fields."""
  found = {}
  for line in out.splitlines():
    if match := re.fullmatch(_LINE, line):
      found[match[1]] = tuple(map(_value, match.groups()[1:]))
  return found


def config_changes(
    old: Mapping[str, Any], new: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
  """Returns field -> (new, old) of the fields that two configs differ in."""
  a, b = dict(leaves(old)), dict(leaves(new))
  return {
      name: (b.get(name, _UNSET), a.get(name, _UNSET))
      for name in a.keys() | b.keys()
      if repr(a.get(name, _UNSET)) != repr(b.get(name, _UNSET))
  }


def _diverged(err: str) -> bool:
  """Whether training itself ended the run, as a learning rate of 1e30 does."""
  return "stopped being finite" in err


def _of_output(outcome: Outcome) -> Iterator[str]:
  lines = outcome.err.splitlines()
  if "Traceback" in outcome.err + outcome.out:
    yield f"a traceback: {lines[-1] if lines else ''}"
  if outcome.status is None:
    yield "it took too long"
  elif outcome.status not in (DONE, BAD_INPUT):
    yield f"status {outcome.status}: {lines[-1] if lines else ''}"
  elif outcome.status == BAD_INPUT:
    if _diverged(outcome.err):
      lines = lines[-1:]  # A run may warn before it ends.
    if len(lines) != 1 or not lines[0].startswith("error: "):
      yield f"{len(lines)} lines instead of an error: {outcome.err!r}"
  elif any(line.startswith("error: ") for line in lines):
    yield f"status 0 with an error: {outcome.err!r}"


def _of_resumed(
    flags: Sequence[Flag], outcome: Outcome, run: str, whole: bool = True
) -> Iterator[str]:
  yield from _of_config(flags, outcome, run)
  yield from _of_starts(outcome, run, whole)
  allowed = (
      rf"{re.escape(run)}(checkpoints|config\.|metrics\.jsonl|starts\.jsonl"
      r"|report\.html|events\.|profile|tokenizer)"
  )
  for path in changed(outcome):
    if not re.match(allowed, path) or re.search(r"\.part$|-tmp", path):
      yield f"{path} changed"
  if whole:
    yield from _of_metrics(outcome, run)
    yield from _of_report(outcome, run)


def _of_config(
    flags: Sequence[Flag], outcome: Outcome, run: str
) -> Iterator[str]:
  """Yields problems of config.json, its copies and the printed lines."""
  before, after = outcome.before, outcome.after
  name = f"{run}config.json"
  old, new = json.loads(_bytes(before, name)), json.loads(_bytes(after, name))
  different = config_changes(old, new)
  lines = told(outcome.out)
  for field in sorted(different.keys() | lines.keys()):
    if repr(different.get(field)) != repr(lines.get(field)):
      yield (
          f"{field}: (new, old) is {different.get(field)}, and the line says"
          f" {lines.get(field)}"
      )
  for flag in flags:
    if flag_differs(flag, old) and not any(
        _of_flag(field, flag, {}) for field in different
    ):
      yield f"{flag} has no effect"
  for field in different:
    if not any(_of_flag(field, flag, old) for flag in flags):
      yield f"{field} changed, and no flag changes it"
  copies = [p for p in after if re.search(r"config\.\d+\.json$", p)]
  copies = [p for p in copies if p.startswith(run) and p not in before]
  if [after[p] for p in copies] != [before[name]] * bool(different):
    yield f"copies of the old config: {copies}"


def _of_starts(outcome: Outcome, run: str, whole: bool) -> Iterator[str]:
  """Yields problems of starts.jsonl: a start and an end have a line each."""
  name = f"{run}starts.jsonl"
  old, new = _bytes(outcome.before, name), _bytes(outcome.after, name)
  added = [json.loads(x) for x in new.removeprefix(old).splitlines()]
  if not new.startswith(old) or not new.endswith(b"\n"):
    yield "starts.jsonl has not grown by whole lines"
  elif ["changed" in x for x in added] != [True, False][: 1 + whole]:
    yield f"starts.jsonl has the new lines {added}"
  else:
    lines = [x for x in outcome.out.splitlines() if re.fullmatch(_LINE, x)]
    noted = [f"resumed with {line}" for line in added[0]["changed"]]
    if noted != lines:
      yield f"starts.jsonl says {noted}, the output {lines}"


def _of_metrics(outcome: Outcome, run: str) -> Iterator[str]:
  """Yields problems of metrics.jsonl after a run that came to its end."""
  config = json.loads(_bytes(outcome.after, f"{run}config.json"))
  notes = map(json.loads, _lines(outcome.after, f"{run}starts.jsonl"))
  start = [0, *(x["step"] for x in notes if "changed" in x)][-1]
  stopped = re.search(r"^Stopped at step (\d+):", outcome.out, re.M)
  last = int(stopped[1]) if stopped else config["total_steps"]
  old, new = (
      [json.loads(x) for x in _lines(disk, f"{run}metrics.jsonl")]
      for disk in (outcome.before, outcome.after)
  )
  kept = [x for x in old if x["step"] <= start]
  if [repr(x) for x in new[: len(kept)]] != [repr(x) for x in kept]:
    yield f"lines of metrics.jsonl up to step {start} changed"
  steps = [x["step"] for x in new[len(kept) :] if "train/loss" in x]
  due = [s for s in range(start + 1, last + 1) if not s % config["log_steps"]]
  if steps != due:
    yield f"steps {steps} are logged, and {due} should be"
  for name in config["evals"]:
    mark = f"eval/{name}/seconds"
    if not any(x["step"] == last and mark in x for x in new):
      yield f"evals.{name} is not evaluated at step {last}"
  scores = [
      repr({k: v for k, v in x.items() if not k.endswith("/seconds")})
      for x in new
      if "train/loss" not in x
  ]
  if len(scores) > len(set(scores)):
    yield "an evaluation is twice in metrics.jsonl"
  if f"{run}checkpoints/{last}" not in outcome.after:
    yield f"there is no checkpoint of step {last}"


def _of_report(outcome: Outcome, run: str) -> Iterator[str]:
  report = _bytes(outcome.after, f"{run}report.html").decode()
  if not report.rstrip().endswith("</section>"):
    yield "report.html has no end"
  for line in outcome.out.splitlines():
    if re.fullmatch(_LINE, line):
      change = line.removeprefix("resumed with ")
      if html.escape(change) not in report:
        yield f"report.html does not tell {change}"


def _of_evaluated(
    flags: Sequence[Flag], outcome: Outcome, run: str
) -> Iterator[str]:
  """Yields what an evaluation changed but for the scores that it added."""
  del flags
  name = f"{run}metrics.jsonl"
  old, new = _bytes(outcome.before, name), _bytes(outcome.after, name)
  if not new.startswith(old) or not (new + b"\n").endswith(b"\n\n"):
    yield "metrics.jsonl has not grown by whole lines"
  else:
    for text in new.removeprefix(old).splitlines():
      if "train/loss" in json.loads(text):
        yield "a line of training was added"
  folders = set()
  for path in changed(outcome):
    if match := re.match(rf"{re.escape(run)}evals/([0-9a-f]{{8}})\b", path):
      folders.add(match[0])
    elif path != name and not re.match(
        rf"{re.escape(run)}evals($|/events\.)", path
    ):
      yield f"{path} changed"
  for folder in folders:
    for part in ("config.json", "metrics.jsonl"):
      if not outcome.after.get(f"{folder}/{part}"):
        yield f"{folder} has no {part}"
  if folders and new != old:
    yield "scores went to two files"


def _of_preflight(
    flags: Sequence[Flag], outcome: Outcome, run: str
) -> Iterator[str]:
  del flags, run
  yield from (f"{path} changed" for path in changed(outcome))


def flag_differs(flag: Flag, config: Mapping[str, Any]) -> bool:
  """Whether a flag's value is another one than the config's."""
  value: Any = config
  for part in re.findall(r"[^.\[\]]+", flag.field):
    try:
      value = value[int(part) if isinstance(value, list) else part]
    except (LookupError, ValueError, TypeError):
      return True
  text = {"true": "True", "false": "False"}.get(flag.text, flag.text)
  return flag.text != value and _value(text) != value


def _of_flag(field: str, flag: Flag, config: Mapping[str, Any]) -> bool:
  """Whether a field's change may follow from a flag.

  A flag that adds a section to the config sets its other fields' defaults, too.
  """
  name = flag.field.partition("[")[0]
  top = name.partition(".")[0]
  if config and top not in config:
    name = top
  inside = field == name or field.startswith(f"{name}.")
  return inside or name.startswith(f"{field}.")  # an empty section was filled


def _value(text: str) -> Any:
  """Returns the value of a literal as JSON has it, or else the text."""
  try:
    return json.loads(json.dumps(ast.literal_eval(text)))
  except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
    return text


def _bytes(disk: Disk, path: str) -> bytes:
  return disk.get(path) or b""


def _lines(disk: Disk, path: str) -> list[str]:
  return _bytes(disk, path).decode().splitlines()
