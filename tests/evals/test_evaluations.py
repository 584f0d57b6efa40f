"""All evaluations of a run: which parameters they see, and what they keep."""

import contextlib
import dataclasses
import json

import fakes
import jax
import jax.numpy as jnp
import pytest

from siglip_jax import sharding
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.evals import evaluations
from siglip_jax.evals import scores
from siglip_jax.inference.encoder import BatchEncoder
from siglip_jax.models.two_towers import TwoTowers


@dataclasses.dataclass(frozen=True)
class BiasReader:
  """An evaluator whose score is the bias that the encoder holds."""

  name: str
  source: fakes.ListSource = fakes.ListSource([])

  def run(self, encoder):
    value = encoder.bias
    if value < 0:
      raise ValueError("a negative share")
    score = scores.Score(
        name=self.name, value=value, lo=0.0, hi=1.0, chance=0.125, n=8
    )
    return scores.Result(scores=[score])


class AnyNumber:
  """Equal to a time in seconds, whatever it is."""

  def __eq__(self, other):
    return other >= 0


def params(bias):
  return {"t": jnp.zeros(1), "b": jnp.full(1, bias)}


@pytest.fixture
def log():
  """What happened: names entered and left, and metrics written."""
  return []


@pytest.fixture
def evals(log):
  """Two evaluators over an encoder that holds a bias of 0.75."""

  @contextlib.contextmanager
  def evaluating(name):
    log.append(("begin", name))
    yield
    log.append(("end", name))

  tower = dict(width=8, depth=0, mlp_dim=8, num_heads=1)
  encoder = BatchEncoder(
      model=TwoTowers(
          image=tower | dict(patch=8),
          text=tower | dict(vocab_size=5),
          out_dim=8,
      ),
      params=params(0.75),
      mesh=sharding.make_mesh(devices=jax.devices()[:1]),
      image=Preprocess("decode|resize(16)|value_range(-1,1)"),
      text=None,
      batch_size=1,
  )
  return evaluations.Evaluations(
      {"first": BiasReader("a"), "second": BiasReader("b")},
      encoder,
      history=lambda: [
          json.loads(
              json.dumps({"step": line[0]} | line[1]).replace("NaN", "null")
          )
          for line in log
          if line[0] in range(9)
      ],
      write=lambda *args: log.append(args),
      evaluating=evaluating,
  )


def metrics(name, value):
  evaluator = {"a": "first", "b": "second"}[name]
  seconds = {f"eval/{evaluator}/seconds": AnyNumber()}
  ends = {f"{name}/low": 0.0, f"{name}/high": 1.0, f"{name}/chance": 0.125}
  return {name: value} | ends | seconds


def test_evaluators_see_the_parameters_of_the_step_and_write_their_scores(
    evals, log
):
  evals.run(3, ["second", "first"], params(0.25))
  assert log == [
      ("begin", "second"),
      ("end", "second"),
      (3, metrics("b", 0.25)),
      ("begin", "first"),
      ("end", "first"),
      (3, metrics("a", 0.25)),
  ]


def test_scores_are_the_newest_in_the_order_of_the_config(evals):
  assert evals.scores() == []
  evals.run(3, ["second"], params(0.25))
  assert [(s.name, s.value) for s in evals.scores()] == [("b", 0.25)]
  evals.run(4, ["first"], params(0.5))
  evals.run(5, ["second"], params(0.375))
  assert [(s.name, s.value) for s in evals.scores()] == [
      ("a", 0.5),
      ("b", 0.375),
  ]
  assert evals.results.keys() == {"first", "second"}


def test_an_evaluation_that_fails_leaves_the_scores_before_it(evals, log):
  evals.run(3, ["first"], params(0.25))
  log.clear()
  with pytest.raises(ValueError, match="a negative share"):
    evals.run(4, ["first", "second"], params(-0.5))
  assert log == [("begin", "first")]  # nothing is written, nor the second run
  assert [(s.name, s.value) for s in evals.scores()] == [("a", 0.25)]


def test_scores_that_are_on_file_are_not_written_twice(evals, log):
  evals.run(3, ["first"], params(0.25))
  evals.run(3, ["first"], params(0.25))
  lines = [e for e in log if e[0] == 3]
  assert lines == [(3, metrics("a", 0.25))]
  evals.run(5, ["first"], params(float("nan")))
  evals.run(5, ["first"], params(float("nan")))
  assert len([e for e in log if e[0] == 5]) == 1  # null on file
  # At another step, or of other data, they are another result.
  evals.run(4, ["first"], params(0.25))
  evals.run(3, ["first"], params(0.5))
  evals.run(3, ["first"], params(0.25))
  lines = [(e[0], e[1]["a"]) for e in log if e[0] in (3, 4)]
  assert lines == [(3, 0.25), (4, 0.25), (3, 0.5), (3, 0.25)]
