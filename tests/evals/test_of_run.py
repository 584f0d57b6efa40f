"""Evaluations of a prepared run: when it ends early, and what is shown."""

import ml_collections
import pytest

from siglip_jax.evals import of_run

SCORES = [
    {"step": step, "retrieval/x/txt2img@1": value}
    for step, value in ((5, 0.5), (10, 0.4), (15, 0.3))
]


def test_wandb_is_asked_for_by_its_section_alone():
  section = dict(project="p", mode="offline")
  config = ml_collections.ConfigDict({"wandb": section})
  assert of_run.wandb(config) == section
  assert of_run.wandb(ml_collections.ConfigDict()) is None


@pytest.mark.parametrize(
    "section, step",
    [
        (None, None),
        (dict(metric="retrieval/x/txt2img@1", patience=3), None),
        (dict(metric="retrieval/x/txt2img@1", patience=2), 15),
        (dict(metric="retrieval/x/txt2img@1", patience=1), 10),
        (dict(metric="retrieval/x/txt2img@1", patience=1, mode="min"), None),
    ],
)
def test_a_run_ends_early_as_its_config_says(section, step):
  sections = {} if section is None else {"early_stopping": section}
  config = ml_collections.ConfigDict(sections)
  assert of_run.early_stop(config, SCORES) == step
