"""Progress of opening: silence at first, then lines on stderr."""

import pytest

from siglip_jax.data import opening


@pytest.fixture
def clock(monkeypatch):
  """The time that opening sees, in a list of one number."""
  now = [100.0]
  monkeypatch.setattr(opening.time, "monotonic", lambda: now[0])
  return now


def consume(clock, seconds, **options):
  parts = [range(10)] * 4
  tracked = opening.track(parts, "Reading x", size=len, **options)
  for part in tracked:
    assert len(part) == 10
    clock[0] += seconds


def test_what_is_quick_prints_nothing(clock, capsys):
  consume(clock, 0.4)
  assert capsys.readouterr() == ("", "")


def test_what_takes_long_is_counted_every_few_seconds(clock, capsys):
  consume(clock, 2.5, total=40)
  out, err = capsys.readouterr()
  assert out == ""
  assert err.splitlines() == [
      "Reading x: 10/40",
      "Reading x: 30/40",
      "Reading x: 40 in 10 s",
  ]


def test_other_processes_are_silent(clock, capsys, monkeypatch):
  monkeypatch.setattr(opening, "_silent", False)  # restored afterwards
  opening.silence()
  consume(clock, 2.5)
  assert capsys.readouterr().err == ""
