"""The evaluators by type, and the names of what they write."""

import fakes

from siglip_jax import evals


def test_the_names_of_scores_are_known_before_a_run(tmp_path):
  folder = str(fakes.captioned_folder(tmp_path / "images"))
  options = dict(dataset="x", path=folder, split="validation", text="text")
  own = {"loss": dict(loss="sigmoid", batch_size=4)}
  for kind, function in evals.EVALUATORS.items():
    evaluator = function(**options, **own.get(kind, {}))
    texts = [evaluator.source[i]["text"] for i in range(len(evaluator.source))]
    result = evaluator.run(fakes.PerfectEncoder(texts))
    names = {f"{kind}/x{end}" for end in evals.SCORES[kind]}
    assert {score.name for score in result.scores} == names
