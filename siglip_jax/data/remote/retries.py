"""Patience with a network: what is tried again, for how long, and what is not.

obstore's own retries are switched off: they hide what happened, do not repeat a
short answer, and wait 0.1 s after a 429 whatever its Retry-After says. The
header cannot be read through it, so a 429 is followed by longer waits here.
"""

from collections.abc import Callable
import dataclasses
import random
import re
import time
from typing import TypeVar

from absl import logging
from obstore import exceptions

from siglip_jax.errors import TryAgain
from siglip_jax.errors import UserError

_T = TypeVar("_T")
_LOG_SECONDS = 10  # at most one line in this time
_STATUS = re.compile(r"status code: (\d{3})([^:\n]*)")
_OF_MACHINE = "169.254."  # the service that hands out a machine's credentials
_LATER = (408, 429)  # statuses below 500 after which a request is repeated


class Incomplete(OSError):
  """An answer that has fewer bytes than were asked for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retries:
  """How often and when a request is repeated.

  The wait doubles from one try to the next, and each is shortened at random by
  up to a half, so that many readers do not come back together.

  Attributes:
    tries: number of requests before the reader gives up.
    first: seconds before the second try.
    limited: seconds before the second try, if the server asked for fewer
      requests (429).
    longest: the longest wait in seconds.
    stall: seconds without a byte that end a request.
    whole: seconds that a request may take.
  """

  tries: int = 10
  first: float = 0.25
  limited: float = 2.0
  longest: float = 30.0
  stall: float = 5.0
  whole: float = 120.0

  def wait(self, tried: int, limited: bool) -> float:
    """Returns the seconds to wait after some tries."""
    first = self.limited if limited else self.first
    longest = min(self.longest, first * 2.0 ** (tried - 1))
    return longest * random.uniform(0.5, 1.0)


# For what a start needs, where a person waits and most failures are mistakes.
AT_START = Retries(tries=5)


def call(what: str, request: Callable[[], _T], retries: Retries) -> _T:
  """Returns the result of a request, which is repeated while it fails.

  Args:
    what: what is requested, for messages: a URL, or one with a range.
    request: raises an exception of obstore, or Incomplete.
    retries: how often and when.

  Raises:
    UserError: the object is missing or forbidden, or the request is wrong:
      another try would end in the same way.
    TryAgain: every try failed.
  """
  begin = time.monotonic()
  for tried in range(1, retries.tries + 1):
    try:
      return request()
    except (exceptions.BaseError, Incomplete, FileNotFoundError) as e:
      status = _status(e)
      _refuse(what, e, status)
      reason = _reason(e, retries)
    if tried < retries.tries:
      logging.log_every_n_seconds(
          logging.WARNING,
          "Reading %s again (try %d of %d): %s.",
          _LOG_SECONDS,
          what,
          tried + 1,
          retries.tries,
          reason,
      )
      time.sleep(retries.wait(tried, status == 429))
  seconds = time.monotonic() - begin
  raise TryAgain(
      f"{what} could not be read in {retries.tries} tries and"
      f" {seconds:.0f} s; the last one: {reason}."
  )


def _status(error: Exception) -> int | None:
  """Returns the HTTP status in an error's text, or None."""
  status = _STATUS.search(str(error))
  return int(status[1]) if status else None


def _refuse(what: str, error: Exception, status: int | None) -> None:
  """Raises a UserError if another try would end in the same way."""
  if isinstance(error, FileNotFoundError):
    raise UserError(
        f"{what} does not exist: the server answers 404. Check the name and"
        " that the object is there."
    ) from None
  if isinstance(error, exceptions.NotSupportedError):
    raise UserError(
        f"{what} must be on a server that answers range requests; this one"
        " sends whole files. Copy the files to a bucket or to this machine."
    ) from None
  final = status is not None and 400 <= status < 500 and status not in _LATER
  refused = (
      exceptions.PermissionDeniedError,
      exceptions.UnauthenticatedError,
      exceptions.InvalidPathError,
  )
  if _OF_MACHINE in str(error):
    return  # it may be busy
  if final or isinstance(error, refused):
    raise UserError(
        f"{what} must be readable by this machine; the answer was:"
        f" {_first_line(error)}.{credentials(what)}"
    ) from None


def credentials(url: str) -> str:
  """Returns a sentence on how a place takes credentials, with a space."""
  ways = {
      "gs://": (
          " For gs://, run `gcloud auth application-default login` or set"
          " GOOGLE_SERVICE_ACCOUNT; GOOGLE_SKIP_SIGNATURE=true reads public"
          " buckets without an account."
      ),
      "s3://": (
          " For s3://, set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and"
          " AWS_REGION; AWS_SKIP_SIGNATURE=true reads public buckets without an"
          " account."
      ),
      "hf://": " For hf://, set HF_TOKEN if the repository is not public.",
  }
  return next((way for scheme, way in ways.items() if scheme in url), "")


def _reason(error: Exception, retries: Retries) -> str:
  """Returns what went wrong in few words."""
  text = str(error)
  if _OF_MACHINE in text:
    return "this machine's own service gave no credentials"
  if status := _STATUS.search(text):
    return f"the server answered {status[1]}{status[2]}".rstrip()
  if "kind: Connect" in text:
    return "no connection to the server"
  if "TimedOut" in text or "Timeout" in text:
    return (
        f"nothing came for {retries.stall:g} s, or not all in"
        f" {retries.whole:g} s"
    )
  if "UnexpectedRange" in text:
    return "other bytes came than were asked for"
  if "UnexpectedEof" in text or "IncompleteBody" in text:
    return "the connection was cut"
  return _first_line(error)


def _first_line(error: Exception) -> str:
  line = str(error).split("\n", 1)[0]
  return line.rpartition(" - ")[2].rstrip(" .:")[:300]
