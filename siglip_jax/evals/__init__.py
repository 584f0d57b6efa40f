"""Evaluators by name. Each is made from its section of config.evals."""

from siglip_jax.evals import datasets

EVALUATORS = {
    "zeroshot": datasets.classification,
    "retrieval": datasets.retrieval,
}
