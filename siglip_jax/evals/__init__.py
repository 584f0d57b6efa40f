"""Evaluators by type name; each is built from its section of config.evals."""

from siglip_jax.evals import datasets

EVALUATORS = {
    "zeroshot": datasets.classification,
    "retrieval": datasets.retrieval,
}
