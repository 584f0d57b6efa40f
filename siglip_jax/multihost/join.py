"""Joining the other processes of a run, where there are any.

On the hosts of a TPU slice they are found by themselves; on clusters of CPUs
and GPUs three flags name them. A run on one host has nothing to join.
"""

from collections.abc import Callable
import dataclasses
import os
import re
import sys
import time
import traceback
import urllib.error
import urllib.request

from absl import flags
import jax

from siglip_jax import cli
from siglip_jax.errors import TryAgain
from siglip_jax.errors import UserError
from siglip_jax.multihost import parent
from siglip_jax.multihost import roll_call
from siglip_jax.multihost.messages import Peers

_PORT = 8476
# What XLA says of its collectives, whose errors have one type for all.
_NETWORK = re.compile(
    "DEADLINE_EXCEEDED|UNAVAILABLE|ABORTED|timed out"
    "|[Cc]onnection (closed|reset|refused)"
)
_LINGER = 3.0  # seconds in which the others read why process 0 ends


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
  """Where this process stands among the others."""

  coordinator: str  # host:port, of process 0
  num_processes: int
  process_id: int
  seconds: float  # limit for all to come


def define_flags() -> None:
  """Defines --coordinator and its like."""
  flags.DEFINE_string(
      "coordinator",
      None,
      "host:port of process 0, on CPU and GPU clusters; TPU hosts find theirs.",
  )
  flags.DEFINE_integer("num_processes", None, "With --coordinator.")
  flags.DEFINE_integer("process_id", None, "With --coordinator.")
  flags.DEFINE_float(
      "join_seconds", 300, "How long to wait for the other processes."
  )


def cluster() -> Cluster | None:
  """Returns the cluster that the flags or the TPU slice name, if any."""
  values = flags.FLAGS
  named = (values.coordinator, values.num_processes, values.process_id)
  if named == (None, None, None):
    return tpu_slice(values.join_seconds)
  return _named(*named, values.join_seconds)


def run_all(cluster: Cluster | None, main: Callable[[], int]) -> int:
  """Runs `main` with all processes of the cluster, or alone if it is None.

  One process that fails ends the others with the same status.

  Returns:
    The status of `main`, or TRY_AGAIN if the process died of a signal.
  """
  if cluster is None:
    return main()
  return parent.watch(lambda: _joined(cluster, main))


def tpu_slice(seconds: float) -> Cluster | None:
  """The workers of a TPU slice of several hosts, if this is one of them.

  GKE says it in the environment, Compute Engine on its metadata server.
  """
  cpu = os.environ.get("JAX_PLATFORMS") == "cpu"
  # JAX skips the metadata server where there is no TPU.
  if os.environ.get("TPU_SKIP_MDS_QUERY") or cpu:
    return None
  hosts = os.environ.get("TPU_WORKER_HOSTNAMES") or _metadata(
      "worker-network-endpoints"
  )
  # Compute Engine gives names, or triples of which the last is an address.
  hosts = [h.split(":")[-1].strip() for h in hosts.split(",")]
  if len(hosts) < 2:
    return None
  index = os.environ.get("TPU_WORKER_ID") or _metadata("agent-worker-number")
  return Cluster(
      coordinator=f"{hosts[0]}:{_PORT}",
      num_processes=len(hosts),
      process_id=int(index),
      seconds=seconds,
  )


def _named(coordinator, count, index, seconds: float) -> Cluster:
  host, _, port = (coordinator or "").rpartition(":")
  if None in (count, index) or not host or not port.isdigit():
    raise UserError(
        "--coordinator=HOST:PORT, --num_processes and --process_id go together;"
        f" got {coordinator!r}, {count} and {index}."
    )
  if not 0 <= index < count:
    raise UserError(
        f"--process_id must be from 0 to {count - 1}, as --num_processes is"
        f" {count}; got {index}."
    )
  return Cluster(
      coordinator=coordinator,
      num_processes=count,
      process_id=index,
      seconds=seconds,
  )


def _metadata(key: str) -> str:
  host = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
  request = urllib.request.Request(
      f"http://{host}/computeMetadata/v1/instance/attributes/{key}",
      headers={"Metadata-Flavor": "Google"},
  )
  try:
    with urllib.request.urlopen(request, timeout=10) as answer:
      return answer.read().decode()
  except urllib.error.HTTPError:
    return ""  # No worker of a slice.
  except OSError as e:
    raise TryAgain(
        f"The metadata server {host}, which knows the workers of this TPU"
        f" slice, does not answer: {e}."
    ) from None


def _joined(cluster: Cluster, main: Callable[[], int]) -> int:
  begin = time.monotonic()
  roll_call.call(
      cluster.coordinator,
      count=cluster.num_processes,
      index=cluster.process_id,
      seconds=cluster.seconds,
  )
  left = max(cluster.seconds - (time.monotonic() - begin), 10)
  jax.distributed.initialize(
      cluster.coordinator,
      cluster.num_processes,
      cluster.process_id,
      initialization_timeout=round(left),
      cluster_detection_method="deactivate",
  )
  try:
    status = main()
  except BaseException as e:
    _leave(e)
    raise
  jax.distributed.shutdown()  # Waits for the others.
  return status


def _leave(e: BaseException) -> None:
  """Ends this process, so that the others end as well, and know why."""
  if isinstance(e, jax.errors.JaxRuntimeError) and _NETWORK.search(str(e)):
    traceback.print_exc()
    first = str(e).strip().splitlines()[0][:300]
    e = TryAgain(
        f"The network between the workers failed: {first}. Start the same"
        " command again."
    )
  status = cli.report(e)
  if status is None:
    traceback.print_exc()
  peers = Peers()
  status = 1 if status is None else status
  peers.tell_end(status, " ".join(str(e).split()) or type(e).__name__)
  sys.stdout.flush()
  sys.stderr.flush()
  if peers.index == 0:
    time.sleep(_LINGER)
  # A regular exit would wait for the others to do the same.
  os._exit(status)
