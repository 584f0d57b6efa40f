"""Two processes of four devices give the losses of one process of eight."""

import os
from pathlib import Path
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from siglip_jax import losses
from siglip_jax import sharding


def values_and_gradients(mesh):
  """All ring losses of the same pairs on any mesh, as one flat dict."""
  rng = np.random.default_rng(0)
  z = rng.normal(size=(2, 40, 16)).astype(np.float32)
  z /= np.linalg.norm(z, axis=-1, keepdims=True)
  rows = NamedSharding(mesh, P(sharding.BATCH_AXES))
  zimg, ztxt = (
      jax.make_array_from_callback(x.shape, rows, lambda i, x=x: x[i])
      for x in z
  )
  options = dict(mesh=mesh, axis=sharding.BATCH_AXES, block=3)
  found = {}
  for name, loss, scalars in (
      ("sigmoid", losses.ring_sigmoid_loss, (np.log(7.0), -1.5)),
      ("softmax", losses.ring_softmax_loss, (np.log(7.0),)),
  ):
    scalars = [jnp.float32(s) for s in scalars]
    value, grads = jax.jit(
        jax.value_and_grad(
            lambda *a, loss=loss: loss(*a, **options),
            tuple(range(2 + len(scalars))),
        ),
        out_shardings=NamedSharding(mesh, P()),
    )(zimg, ztxt, *scalars)
    found[f"{name}/loss"] = np.asarray(value)
    found |= {f"{name}/grad{i}": np.asarray(g) for i, g in enumerate(grads)}
  return found


def main(index: str, port: str, out: str) -> None:
  """One of the two processes."""
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", 4)
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(f"localhost:{port}", 2, int(index))
  found = values_and_gradients(sharding.make_mesh(data=4, fsdp=2))
  if index == "0":
    np.savez(out, **found)


def test_two_processes_of_four_devices_equal_one_of_eight(tmp_path):
  with socket.socket() as s:
    s.bind(("localhost", 0))
    port = str(s.getsockname()[1])
  out = tmp_path / "found.npz"
  command = [sys.executable, __file__]
  running = [
      subprocess.Popen(
          [*command, str(i), port, str(out)],
          cwd=Path.cwd(),
          env={**os.environ, "PYTHONPATH": str(Path.cwd())},
          stderr=subprocess.PIPE,
          text=True,
      )
      for i in range(2)
  ]
  errors = [p.communicate(timeout=240)[1] for p in running]
  assert [p.returncode for p in running] == [0, 0], errors
  wanted = values_and_gradients(sharding.make_mesh(data=4, fsdp=2))
  with np.load(out) as found:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
      # The order of float32 sums over devices may differ, nothing else.
      np.testing.assert_allclose(
          found[name], value, rtol=1e-6, atol=1e-7, err_msg=name
      )


if __name__ == "__main__":
  main(*sys.argv[1:])
