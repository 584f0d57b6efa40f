"""The file of a lock: what it says, and whether the named process lives."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from siglip_jax.multihost import holders
from siglip_jax.multihost.holders import Holder


@pytest.fixture
def me():
  return holders.this_process("run")


def test_what_is_written_is_read(me, tmp_path):
  path = tmp_path / holders.NAME
  assert holders.holder(tmp_path) is None
  assert holders.create(path, me)
  assert holders.holder(tmp_path) == me
  assert not holders.create(path, dataclasses.replace(me, beat=5))
  assert holders.parse(holders.read(path)).beat == 0


def test_a_later_heartbeat_covers_an_earlier_one(me):
  lengths = [
      len(dataclasses.replace(me, beat=n).text()) for n in (0, 9, 10, 10**6)
  ]
  assert lengths == sorted(lengths)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\0" * 300,
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b"[]",
        b"{}",
        {"pid": "7"},
        {"pid": -1},
        {"pid": 0},
        {"pid": 2**40},
        {"pid": True},
        {"host": None},
        {"beat": 1.5},
    ],
    ids=str,
)
def test_anything_else_names_nobody(me, tmp_path, text):
  if isinstance(text, dict):
    text = json.dumps(dataclasses.asdict(me) | text).encode()
  (tmp_path / holders.NAME).write_bytes(text)
  assert holders.holder(tmp_path) is None


def test_a_later_versions_file_may_say_more(me):
  more = json.dumps(dataclasses.asdict(me) | {"color": "red"}).encode()
  assert holders.parse(more) == me


def test_a_process_of_this_machine_is_looked_up(me):
  assert me.alive
  assert dataclasses.replace(me, born="7").alive is False  # its id came again
  assert dataclasses.replace(me, machine="elsewhere").alive is None


def test_a_process_that_its_parent_has_not_fetched_has_ended(me):
  child = subprocess.Popen(
      [sys.executable, "-c", "import sys; sys.stdin.read()"],
      stdin=subprocess.PIPE,
  )
  found = dataclasses.replace(me, pid=child.pid, born=holders._born(child.pid))
  assert found.alive
  child.stdin.close()
  os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
  assert found.alive is False  # a zombie
  child.wait()
  assert found.alive is False


def test_a_process_that_cannot_be_looked_up_may_live(me, monkeypatch):
  def kill(pid, number):
    raise PermissionError

  monkeypatch.setattr(holders.os, "kill", kill)
  assert me.alive
  monkeypatch.setattr(holders, "_born", lambda pid: None)
  assert me.alive is None


def test_a_name_is_one_line(me):
  bad = dataclasses.replace(me, host="a\nb", since="now\r\n", pid=7)
  assert bad.name == "the run on a b (pid 7, since now)"


def test_a_file_that_cannot_be_written_is_not_left_in_part(me, tmp_path):
  class Full(Holder):

    def text(self):
      raise OSError

  path = tmp_path / holders.NAME
  with pytest.raises(OSError):
    holders.create(path, Full(**dataclasses.asdict(me)))
  assert not path.exists()
