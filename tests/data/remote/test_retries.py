"""Faults of a network are repeated; mistakes are not."""

from obstore import exceptions
import pytest
import servers

from siglip_jax.data.remote import retries
from siglip_jax.data.remote.retries import Retries
from siglip_jax.errors import TryAgain
from siglip_jax.errors import UserError


def status(code):
  """An error as obstore words it."""
  return exceptions.GenericError(
      f"Generic HTTP error: Error performing GET URL in 1ms - Server returned"
      f" non-2xx status code: {code} Some Words: \n\nDebug source: ..."
  )


@pytest.fixture
def waits(monkeypatch):
  """The seconds that were waited, which pass at once."""
  waits = []
  monkeypatch.setattr(retries.time, "sleep", waits.append)
  return waits


def failing(*errors):
  """A request that raises some errors before it succeeds."""
  left = list(errors)

  def request():
    if left:
      raise left.pop(0)
    return "done"

  return request


@pytest.mark.parametrize(
    "error",
    [
        *(status(code) for code in (408, 429, 500, 502, 503, 504)),
        exceptions.GenericError("request error kind: Timeout"),
        retries.Incomplete("3 of 4 bytes came"),
    ],
    ids=str,
)
def test_a_fault_is_tried_again(error, waits):
  assert retries.call("x", failing(error, error), Retries()) == "done"
  assert len(waits) == 2


@pytest.mark.parametrize(
    "error",
    [
        *(status(code) for code in (400, 401, 403, 404, 410, 412)),
        FileNotFoundError("gone"),
        exceptions.PermissionDeniedError("no"),
        exceptions.NotSupportedError("Range request not supported"),
    ],
    ids=str,
)
def test_a_mistake_ends_at_once_and_is_named(error, waits):
  with pytest.raises(UserError, match="^s3://b/x "):
    retries.call("s3://b/x", failing(error), Retries())
  assert not waits


def test_waits_double_up_to_the_longest(waits):
  patience = Retries(tries=9, first=1.0, longest=10.0)
  retries.call("x", failing(*[status(500)] * 8), patience)
  for wait, most in zip(waits, [1, 2, 4, 8, 10, 10, 10, 10], strict=True):
    assert most / 2 <= wait <= most


def test_a_server_that_asks_for_fewer_requests_gets_them(waits):
  retries.call("x", failing(status(429)), Retries(first=0.1, limited=4.0))
  assert 2 <= waits[0] <= 4


def test_an_end_without_success_names_all_that_is_known(waits):
  with pytest.raises(TryAgain) as error:
    retries.call("gs://b/x", failing(*[status(503)] * 9), Retries(tries=4))
  assert len(waits) == 3
  for words in ("gs://b/x", "4 tries", "answered 503 Some Words"):
    assert words in str(error.value)


def test_credentials_that_the_machine_cannot_give_yet_are_awaited(waits):
  """A machine's own service answers 403 while it is busy, or for good."""
  error = exceptions.GenericError(
      "Error performing GET http://169.254.169.254/x - status code: 403 F: "
  )
  assert retries.call("x", failing(error), Retries()) == "done"
  with pytest.raises(TryAgain, match="own service gave no credentials"):
    retries.call("x", failing(*[error] * 2), Retries(tries=2))


def test_a_bug_is_not_tried_again(waits):
  with pytest.raises(ZeroDivisionError):
    retries.call("x", lambda: 1 / 0, Retries())
  assert not waits


def test_faults_are_logged_with_their_reason(tmp_path, caplog):
  (tmp_path / "a").write_bytes(b"abc")
  logged = retries.logging.log_every_n_seconds
  lines = []
  retries.logging.log_every_n_seconds = lambda level, text, n, *a: lines.append(
      text % a
  )
  try:
    retries.call("x", failing(status(500)), servers.QUICK)
  finally:
    retries.logging.log_every_n_seconds = logged
  assert lines == [
      "Reading x again (try 2 of 8): the server answered 500 Some Words."
  ]
