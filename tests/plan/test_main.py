"""python -m siglip_jax.plan: what it prints, and keeps for the next time."""

import dataclasses
import io
import json
import subprocess
import sys
import types

import config_files
from plans import GIB
from plans import TINY
from plans import plan
import pytest
from rich import console as rich_console

from siglip_jax.plan import __main__
from siglip_jax.plan import chips
from siglip_jax.plan import estimate
from siglip_jax.plan import topology


def shown(plan):
  """What a person is shown of a plan."""
  out = rich_console.Console(file=io.StringIO(), width=100)
  __main__._show(plan, out)
  return out.file.getvalue()


def test_a_plan_that_does_not_fit_says_by_how_much_and_what_would_help():
  text = shown(plan(fits=False, peak_hbm_bytes=40 * GIB))
  assert "no: 10.00 GiB too much for each device" in text
  assert "40.00 GiB of 30.00 GiB" in text
  assert "- config.microbatch: fewer examples at a time, e.g. 2048" in text
  assert "examples/s" not in text


def test_the_memory_of_the_hosts_is_shown_beside_hbm():
  text = shown(
      plan(
          examples_per_second_estimate=4096.0,
          compiled_seconds=1.0,
          model_flop_utilisation=0.4,
          days_to_finish_estimate=2.5,
          hosts=2,
          host_bytes=407 * 10**9,
          host_data_bytes=24 * 10**9,
          host_data_parts=dict(batches=23 * 10**9, workers=10**9, caches=0),
          host_images_per_second=2048.0,
      )
  )
  assert "24.0 GB of 407.0 GB, each of 2 hosts" in text
  assert "23.0 GB" in text and "caches" not in text
  assert "2,048 (estimate)" in text
  assert "more memory than a host has" not in text


def test_data_that_no_host_can_hold_end_in_advice_and_status_1(
    monkeypatch, capsys
):
  config = config_files.get("b16_4k")[1]
  flags = types.SimpleNamespace(topology="v4:2x2x1", search=False, json=False)
  monkeypatch.setattr(__main__.flags, "FLAGS", flags)
  monkeypatch.setattr(__main__.cli, "config", lambda: config)
  monkeypatch.setattr(topology, "get", lambda name: None)
  planned = plan(
      examples_per_second_estimate=4096.0,
      compiled_seconds=1.0,
      model_flop_utilisation=0.4,
      days_to_finish_estimate=2.5,
      host_bytes=100 * 10**9,
      host_data_bytes=99 * 10**9,
  )
  monkeypatch.setattr(__main__, "plan", lambda config, where: planned)
  assert __main__.main([]) == 0
  assert "config.data.prefetch" not in capsys.readouterr().out
  planned = dataclasses.replace(planned, host_data_bytes=101 * 10**9)
  assert __main__.main([]) == 1
  assert "config.data.prefetch, num_workers" in capsys.readouterr().out


def test_a_config_need_not_name_remat(monkeypatch):
  def lower(config, where):
    raise LookupError(where.name)

  monkeypatch.setattr(estimate, "lower", lower)
  config = config_files.get("emoji")[1]
  assert "remat" not in config.model
  where = topology.Slice(
      name="v4:2x2x1", chip=chips.CHIPS["v4"], chips=4, devices=[]
  )
  with pytest.raises(LookupError, match="v4:2x2x1"):
    __main__.plan(config, where)


def test_kernels_of_a_name_are_added_up():
  kernel = lambda name, times, seconds: dict(
      name=name,
      times=times,
      seconds={"bytes over bandwidth": seconds, "matmuls over peak": 0.1},
  )
  text = shown(
      plan(
          compiled_seconds=0.5,
          kernel_seconds=0.5,
          kernels=[kernel("a", 2, 0.2), kernel("b", 1, 0.0), kernel("a", 3, 1)],
          examples_per_second_estimate=4096.0,
          model_flop_utilisation=0.4,
          days_to_finish_estimate=2.5,
          collectives={"all-gather": dict(count=3, bytes=2 * GIB)},
      )
  )
  line = "a: 5 x, bytes over bandwidth 1.200 s, matmuls over peak 0.200 s"
  assert line in text and "b: 1 x" in text
  assert "1.000 s (estimate)" in text and "4,096 (estimate)" in text
  assert "40.0%" in text and "2.5 days" in text
  assert "3 a step, 2.00 GiB" in text


def test_a_plan_is_made_once_for_the_same_program(monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  made = []
  make = lambda: made.append(plan(chips=len(made))) or made[-1]
  first = __main__._cached("a program", make)
  assert __main__._cached("a program", make) == first
  assert __main__._cached("another", make).chips == 1
  assert len(made) == 2
  for path in tmp_path.rglob("*.json"):
    path.write_text(path.read_text()[:-1])  # damaged
  assert __main__._cached("a program", make).chips == 2


@pytest.mark.tpu_compile
def test_the_command_plans_the_real_step_and_keeps_the_plan(slices, tmp_path):
  del slices  # the command needs the compiler
  (tmp_path / "tiny.py").write_text(TINY)
  command = [
      *(sys.executable, "-m", "siglip_jax.plan", "--json"),
      *(f"--config={tmp_path}/tiny.py", "--topology=v4:2x2x1"),
  ]
  env = {"PATH": "/usr/bin:/bin", "XDG_CACHE_HOME": str(tmp_path)}

  def run(*more):
    return subprocess.run(
        [*command, *more], env=env, capture_output=True, text=True, timeout=300
    )

  done = run()
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  assert found["fits"] is True and found["chips"] == 4
  assert found["global_batch"] == 64
  assert found["hbm_bytes"] == int(30.75 * GIB)
  held = sum(found["parts"].values())
  assert found["peak_hbm_bytes"] == held
  assert found["step_seconds_estimate"] > 0
  assert found["collectives"]["collective-permute"]["count"] > 0
  days = found["step_seconds_estimate"] * 586_000 / 86_400
  assert found["days_to_finish_estimate"] == pytest.approx(days)
  assert {f.name for f in dataclasses.fields(estimate.Plan)} == found.keys()

  row = 32 * 32 * 3 + 16 * 4 + 4
  assert found["hosts"] == 1 and found["host_bytes"] == 407 * 10**9
  assert found["host_data_parts"]["batches"] == (4 + 2) * 64 * row
  assert found["host_data_bytes"] == sum(found["host_data_parts"].values())
  rate = found["examples_per_second_estimate"]
  assert found["host_images_per_second"] == rate

  # The loader changes what a host holds, and no program.
  again = run("--config.data.prefetch=9")
  later = json.loads(again.stdout)
  parts = later.pop("host_data_parts")
  assert parts["batches"] == (9 + 2) * 64 * row
  assert later.pop("host_data_bytes") == sum(parts.values())
  assert later.items() <= found.items()
  assert "Compiled" in done.stderr and "Compiled" not in again.stderr

  for microbatch, nearest in (("0", "64 and 68"), ("16", "64 and 80")):
    wrong = run("--config.batch_size=66", f"--config.microbatch={microbatch}")
    assert wrong.returncode == 2 and nearest in wrong.stderr, wrong.stderr
    assert "Traceback" not in wrong.stderr
