"""Joins the processes of a multi-process run.

The hosts of a TPU slice find each other. On CPU and GPU clusters three flags
say where process 0 is, how many processes there are and which one this is. A
run on one host has nothing to join.
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
# Network failures in XLA's collectives. All their errors share one exception
# type, so only the message tells.
_NETWORK = re.compile(
    "DEADLINE_EXCEEDED|UNAVAILABLE|ABORTED|timed out"
    "|[Cc]onnection (closed|reset|refused)"
)
_LINGER = 3.0  # seconds for the others to read why process 0 ended


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
  """The processes of a run, and which of them this one is."""

  coordinator: str  # host:port of process 0
  num_processes: int
  process_id: int  # this process's index
  seconds: float  # time limit for all processes to join


def define_flags() -> None:
  """Defines --coordinator and the other flags for joining."""
  flags.DEFINE_string(
      "coordinator",
      None,
      "host:port of process 0 on a CPU or GPU cluster; not needed on TPUs.",
  )
  flags.DEFINE_integer(
      "num_processes", None, "Number of processes; goes with --coordinator."
  )
  flags.DEFINE_integer(
      "process_id", None, "Index of this process; goes with --coordinator."
  )
  flags.DEFINE_float(
      "join_seconds", 300, "Seconds to wait for the other processes to join."
  )


def cluster() -> Cluster | None:
  """Returns the cluster given by the flags or the TPU slice, if any."""
  values = flags.FLAGS
  place = (values.coordinator, values.num_processes, values.process_id)
  if place == (None, None, None):
    return tpu_slice(values.join_seconds)
  return _from_flags(*place, values.join_seconds)


def run_all(cluster: Cluster | None, main: Callable[[], int]) -> int:
  """Runs `main` as one process of the cluster, or alone if there is none.

  If one process fails, the others end with the same status.

  Args:
    cluster: the processes to join; None runs `main` alone.
    main: returns its exit status.

  Returns:
    The status of `main`, or TRY_AGAIN if a signal killed the process.
  """
  if cluster is None:
    return main()
  return parent.watch(lambda: _joined(cluster, main))


def tpu_slice(seconds: float) -> Cluster | None:
  """Returns the workers of this TPU slice; None unless it has several hosts.

  GKE lists the workers in the environment, Compute Engine on its metadata
  server.

  Args:
    seconds: time limit for all workers to join.

  Raises:
    TryAgain: the metadata server does not answer.
  """
  cpu = os.environ.get("JAX_PLATFORMS") == "cpu"
  # JAX sets this variable on machines without a TPU.
  if os.environ.get("TPU_SKIP_MDS_QUERY") or cpu:
    return None
  hosts = os.environ.get("TPU_WORKER_HOSTNAMES") or _metadata(
      "worker-network-endpoints"
  )
  # Compute Engine gives names, or colon-separated triples ending in an address.
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


def _from_flags(coordinator, count, index, seconds: float) -> Cluster:
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
    return ""  # This machine is not a worker of a slice.
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
  """Ends this process and tells the others why, so that they end too."""
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
  # A regular exit would wait until the other processes exit too.
  os._exit(status)
