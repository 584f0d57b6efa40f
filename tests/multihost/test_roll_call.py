"""The roll call before a run: all come, or the missing are named."""

from concurrent import futures
import socket
import time

from commands import free_port
import pytest

from siglip_jax.errors import TryAgain
from siglip_jax.errors import UserError
from siglip_jax.multihost import roll_call


@pytest.fixture
def address():
  return f"localhost:{free_port()}"


def call_all(address, indices, count, seconds):
  """What each raised, or None."""

  def call(index):
    try:
      roll_call.call(address, count=count, index=index, seconds=seconds)
    except (TryAgain, UserError) as e:
      return e

  with futures.ThreadPoolExecutor() as pool:
    return list(pool.map(call, indices))


def test_all_come_in_any_order_and_strangers_are_not_counted(address):
  host, port = address.split(":")
  with futures.ThreadPoolExecutor() as pool:
    last = pool.submit(call_all, address, [2, 1], 3, 30)
    first = pool.submit(call_all, address, [0], 3, 30)
    for _ in range(100):
      try:
        with socket.create_connection((host, int(port))) as s:
          s.sendall(b"GET / HTTP/1.0\n")
        break
      except OSError:
        time.sleep(0.01)
    assert last.result() == [None, None] and first.result() == [None]


def test_the_missing_are_named_on_all(address):
  for e in call_all(address, [0, 2], 4, 1.0):
    assert isinstance(e, TryAgain)
    assert str(e).startswith(f"Workers 1, 3 of 4 did not come to {address}")


def test_worker_0_that_is_not_there_is_named(address):
  (e,) = call_all(address, [1], 2, 0.5)
  assert isinstance(e, TryAgain)
  assert f"Worker 1 could not reach worker 0 at {address}" in str(e)
  assert "refused" in str(e)


def test_two_processes_of_one_index_are_refused(address):
  errors = call_all(address, [0, 1, 1], 3, 1.0)
  assert isinstance(errors[0], UserError) and "came as 1" in str(errors[0])


def test_a_port_that_is_taken_is_said_so(address):
  with socket.create_server(("", int(address.split(":")[1]))):
    (e,) = call_all(address, [0], 2, 0.5)
  assert isinstance(e, TryAgain) and "is taken" in str(e)
