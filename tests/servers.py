"""The server of benchmarks/range_server.py, and buckets on it."""

import contextlib
import importlib.util
from pathlib import Path
import sys

from siglip_jax.data.remote import Retries
from siglip_jax.data.remote import stores

_spec = importlib.util.spec_from_file_location(
    "range_server", Path(__file__).parents[1] / "benchmarks/range_server.py"
)
range_server = importlib.util.module_from_spec(_spec)
sys.modules["range_server"] = range_server
_spec.loader.exec_module(range_server)
RangeServer = range_server.RangeServer

# Patience for a server on this machine.
QUICK = Retries(
    tries=8, first=0.002, limited=0.004, longest=0.02, stall=0.2, whole=5.0
)


@contextlib.contextmanager
def buckets(folder, patch, **kwargs):
  """A server whose folders are the buckets of s3:// and gs://."""
  with RangeServer(folder, **kwargs) as server:
    for name in ("AWS_ENDPOINT_URL", "GOOGLE_BASE_URL"):
      patch.setenv(name, server.url)
    patch.setenv("AWS_SKIP_SIGNATURE", "true")
    patch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    stores.connect.cache_clear()  # connections to an earlier server
    yield server
    stores.connect.cache_clear()
