"""Tries the images of the evaluations, so that none ends a run at its first.

An evaluation needs all its images. Each is read and preprocessed once, as the
evaluation will do it; the bad ones are told all together.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from concurrent import futures
import dataclasses
import hashlib
import time
from typing import Any

import numpy as np

from siglip_jax.data import opening
from siglip_jax.data import sources
from siglip_jax.data.embeddings import Embeddings
from siglip_jax.data.images import ImageError
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.data.preprocess import meaning
from siglip_jax.data.sources import Source
from siglip_jax.errors import UserError
from siglip_jax.evals.scores import Evaluator
from siglip_jax.multihost.messages import Peers

NAMED = 20  # bad images that an error names
_AHEAD = 1024  # images handed to the threads at a time
# Time limit for the slowest process: they have about equally many images.
_LEAST_SECONDS = 600.0
_SLOWER = 10.0


def check(
    evaluators: Mapping[str, Evaluator],
    image_pp: Preprocess,
    peers: Peers,
    *,
    image_size: int,
    num_threads: int = 2,
    known: Mapping[str, str] | None = None,
) -> dict[str, str]:
  """Reads and preprocesses every image of every evaluation once.

  Each process tries its share. Images that evaluators share are tried once;
  stored embeddings are not images and need no trial.

  Args:
    evaluators: name -> evaluator.
    image_pp: preprocessing of images in evaluations.
    peers: all processes; each must call this function, once.
    image_size: side of the preprocessed images in pixels.
    num_threads: number of threads of this process.
    known: results of earlier calls for this run; what they say is tried, is not
      tried again.

  Returns:
    Evaluator's name -> a digest of what was tried: the source, preprocessing
    and size. Evaluators on embeddings are left out.

  Raises:
    UserError: images cannot be used; the same on every process. It names up to
      `NAMED`, and gives their number.
    TryAgain: another process does not answer.
  """
  begin = time.monotonic()
  tried = _tried(evaluators, image_pp, image_size)
  load, done, bad = _Load(image_pp, image_size), set((known or {}).values()), {}
  for name, digest in tried.items():
    if digest not in done:
      source, _ = sources.distinct_images(evaluators[name].source)
      bad[name] = _try(load, name, source, peers, num_threads)
      done.add(digest)
  message = {n: [b.count, b.examples] for n, b in bad.items() if b.count}
  seconds = _LEAST_SECONDS + _SLOWER * (time.monotonic() - begin)
  _raise(peers.gather("eval_images", message, seconds=seconds), tried)
  return tried


def _tried(
    evaluators: Mapping[str, Evaluator], image_pp: Preprocess, image_size: int
) -> dict[str, str]:
  """Returns evaluator's name -> digest of what makes its images."""
  tried, how = {}, f"{meaning(image_pp.spec)} {image_size}"
  for name, evaluator in evaluators.items():
    source = evaluator.source
    if not isinstance(source, Embeddings):
      if not len(source):
        raise UserError(
            f"Evaluation needs images; the split of config.evals.{name} has"
            " none. Choose another split or leave the evaluator out."
        )
      # A source without a digest of its own is known by its first key.
      text = f"{sources.digest(source)} {source.key(0)} {how}"
      tried[name] = hashlib.sha256(text.encode()).hexdigest()[:12]
  return tried


@dataclasses.dataclass(frozen=True)
class _Load:
  """Preprocesses one image of a source; returns what is wrong with it."""

  pp: Preprocess
  size: int

  def __call__(self, source: Source, index: int) -> str | None:
    try:
      image = self.pp(source[index], np.random.default_rng(0))["image"]
    except (ImageError, UserError, OSError) as e:
      return str(e)
    except KeyError:
      return "the record has no image"
    if (shape := np.shape(image)) != (self.size, self.size, 3):
      return f"preprocessed, it has shape {shape}"
    return None


@dataclasses.dataclass(frozen=True)
class _Bad:
  """The images of an evaluation that this process cannot use.

  Attributes:
    count: their number.
    examples: index, name and reason of the first `NAMED`.
  """

  count: int
  examples: Sequence[tuple[int, str, str]]


def _try(
    load: Callable[[Source, int], str | None],
    name: str,
    source: Source,
    peers: Peers,
    num_threads: int,
) -> _Bad:
  """Tries this process's share of a source's images, in threads."""
  mine = range(peers.index, len(source), peers.count)
  count, examples = 0, []
  with futures.ThreadPoolExecutor(max(num_threads, 1)) as pool:
    reasons = _in_order(pool, lambda i: load(source, i), mine)
    what = f"Trying images of config.evals.{name}"
    for i, why in opening.track(reasons, what, total=len(mine)):
      if why is None:
        continue
      count += 1
      if len(examples) < NAMED:
        examples.append((i, source.key(i), why))
  return _Bad(count, examples)


def _in_order(
    pool: futures.Executor, function: Callable[[int], Any], items: range
) -> Iterator[tuple[int, Any]]:
  """Yields items and results, without a queue of all items."""
  for start in range(0, len(items), _AHEAD):
    part = items[start : start + _AHEAD]
    yield from zip(part, pool.map(function, part), strict=True)


def _raise(messages: Sequence[Mapping], tried: Mapping[str, str]) -> None:
  """Raises UserError if any process has bad images."""
  parts = []
  for name in tried:
    found = [m[name] for m in messages if name in m]
    if found:
      count = sum(number for number, _ in found)
      examples = sorted(tuple(e) for _, part in found for e in part)[:NAMED]
      keys = ", ".join(f"{key} ({why.rstrip('.')})" for _, key, why in examples)
      more = f" and {count - NAMED} more" if count > NAMED else ""
      parts.append(
          f"{count} of config.evals.{name} cannot be read: {keys}{more}"
      )
  if parts:
    raise UserError(
        "Evaluation needs all images, which are tried before the first step;"
        f" {'; '.join(parts)}. Repair or remove them."
    )
