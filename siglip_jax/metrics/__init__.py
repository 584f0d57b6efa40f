"""Metrics: measured, written to disk, and read again."""

from siglip_jax.metrics.history import best_step
from siglip_jax.metrics.history import stopped
from siglip_jax.metrics.lines import ASKED
from siglip_jax.metrics.lines import evaluated
from siglip_jax.metrics.lines import read
from siglip_jax.metrics.lines import read_own
from siglip_jax.metrics.lines import rewind
from siglip_jax.metrics.loop import Delayed
from siglip_jax.metrics.loop import Throughput
from siglip_jax.metrics.loop import host_memory
from siglip_jax.metrics.loop import phase_shares
from siglip_jax.metrics.mixed import reading
from siglip_jax.metrics.profiler import Profiler
from siglip_jax.metrics.wandb_run import WandbRun
from siglip_jax.metrics.wandb_run import check_wandb
from siglip_jax.metrics.writer import MetricWriter

__all__ = [
    "ASKED",
    "Delayed",
    "MetricWriter",
    "Profiler",
    "Throughput",
    "WandbRun",
    "best_step",
    "check_wandb",
    "evaluated",
    "host_memory",
    "phase_shares",
    "read",
    "read_own",
    "reading",
    "rewind",
    "stopped",
]
