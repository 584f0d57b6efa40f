"""Evaluators by name. Each is made from its section of config.evals."""

from siglip_jax.evals.datasets import classification
from siglip_jax.evals.datasets import retrieval

EVALUATORS = {"zeroshot": classification, "retrieval": retrieval}
