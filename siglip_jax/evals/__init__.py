"""Evaluators by type name; each is built from its section of config.evals."""

from siglip_jax.evals import datasets
from siglip_jax.evals import loss

EVALUATORS = {
    "zeroshot": datasets.classification,
    "retrieval": datasets.retrieval,
    "loss": loss.validation_loss,
}
# Ends of the names of the scores that each of them writes: kind/dataset/...
SCORES = {
    "zeroshot": ("/top1", "/top5"),
    "retrieval": tuple(
        f"/{way}@{k}" for way in ("img2txt", "txt2img") for k in (1, 5, 10)
    ),
    "loss": ("",),
}
