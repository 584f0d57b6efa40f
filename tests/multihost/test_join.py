"""Joining the other processes of a run: who they are, and wrong flags."""

import http.server
import threading

import pytest

from siglip_jax.multihost import join

ANSWERS = {
    "worker-network-endpoints": "a:1:10.0.0.1,b:2:10.0.0.2,c:3:10.0.0.3",
    "agent-worker-number": "2",
}


class Metadata(http.server.BaseHTTPRequestHandler):

  def do_GET(self):
    answer = ANSWERS.get(self.path.rpartition("/")[2])
    known = answer and self.headers["Metadata-Flavor"] == "Google"
    self.send_response(200 if known else 404)
    self.end_headers()
    self.wfile.write((answer or "").encode())

  def log_message(self, *unused):
    pass


@pytest.fixture
def on_tpu(monkeypatch):
  """The environment of a TPU host, with a metadata server of its own."""
  for name in ("JAX_PLATFORMS", "TPU_SKIP_MDS_QUERY", "TPU_WORKER_HOSTNAMES"):
    monkeypatch.delenv(name, raising=False)
  with http.server.HTTPServer(("localhost", 0), Metadata) as server:
    monkeypatch.setenv("GCE_METADATA_IP", f"localhost:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield monkeypatch
    server.shutdown()
    thread.join()


def test_compute_engine_knows_the_workers(on_tpu):
  assert join.tpu_slice(9) == join.Cluster(
      coordinator="10.0.0.1:8476", num_processes=3, process_id=2, seconds=9
  )


def test_one_host_has_nothing_to_join(on_tpu):
  on_tpu.setitem(ANSWERS, "worker-network-endpoints", "a:1:10.0.0.1")
  assert join.tpu_slice(9) is None
  on_tpu.delitem(ANSWERS, "worker-network-endpoints")
  assert join.tpu_slice(9) is None


def test_kubernetes_says_it_in_the_environment(on_tpu):
  on_tpu.setenv("TPU_WORKER_HOSTNAMES", "t-0.x,t-1.x")
  on_tpu.setenv("TPU_WORKER_ID", "1")
  assert join.tpu_slice(9) == join.Cluster(
      coordinator="t-0.x:8476", num_processes=2, process_id=1, seconds=9
  )


def test_without_a_tpu_nobody_is_asked(on_tpu):
  on_tpu.setenv("TPU_SKIP_MDS_QUERY", "1")
  assert join.tpu_slice(9) is None
  on_tpu.delenv("TPU_SKIP_MDS_QUERY")
  on_tpu.setenv("JAX_PLATFORMS", "cpu")
  assert join.tpu_slice(9) is None


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--coordinator=localhost:1"], "go together"),
        (["--process_id=0", "--num_processes=2"], "go together"),
        (
            ["--coordinator=localhost", "--process_id=0", "--num_processes=2"],
            "HOST:PORT",
        ),
        (
            ["--coordinator=h:1", "--process_id=2", "--num_processes=2"],
            "--process_id must be from 0 to 1",
        ),
    ],
)
@pytest.mark.parametrize("module", ["main", "preflight"])
def test_mistakes_in_flags_are_one_line(
    command, place, tmp_path, module, flags, words
):
  said = command.refuse(
      f"siglip_jax.{module}",
      f"--config={place / 'tiny.py'}",
      f"--workdir={tmp_path}",
      *flags,
  )
  assert words in said
