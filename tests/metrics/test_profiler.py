"""Traces of steps: where they begin and end, and where they would crash."""

import types

import jax
import pytest

from siglip_jax.metrics import profiler


@pytest.fixture
def calls(monkeypatch):
  """Traces that were started and stopped, instead of tracing."""
  calls = []
  trace = lambda kind: lambda *folder: calls.append(kind)
  monkeypatch.setattr(jax.profiler, "start_trace", trace("start"))
  monkeypatch.setattr(jax.profiler, "stop_trace", trace("stop"))
  return calls


def run(tmp_path, steps):
  traced = profiler.Profiler(tmp_path, steps=steps)
  for step in range(5):
    traced.before(step, ())
  traced.close(())


def test_consecutive_steps_share_a_trace(tmp_path, calls):
  run(tmp_path, (2, 3, 5))
  assert calls == ["start", "stop", "start", "stop"]


@pytest.mark.parametrize(
    "platforms,backend,libtpu,expected",
    [
        (None, "cpu", "libtpu", True),
        ("tpu,cpu", "cpu", "libtpu", True),
        (None, "tpu", "libtpu", False),
        ("cpu", "cpu", "libtpu", False),
        (None, "cpu", None, False),
    ],
)
def test_nothing_is_traced_where_it_would_crash(
    tmp_path, calls, monkeypatch, caplog, platforms, backend, libtpu, expected
):
  fake = types.SimpleNamespace(
      config=types.SimpleNamespace(jax_platforms=platforms),
      default_backend=lambda: backend,
      profiler=jax.profiler,
      block_until_ready=jax.block_until_ready,
  )
  monkeypatch.setattr(profiler, "jax", fake)
  monkeypatch.setattr(profiler.importlib.util, "find_spec", lambda _: libtpu)
  run(tmp_path, (2,))
  assert calls == ([] if expected else ["start", "stop"])
  assert ("JAX_PLATFORMS=cpu" in caplog.text) == expected
