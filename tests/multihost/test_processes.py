"""Two processes of four devices give the losses of one process of eight.

And they share the work of embedding a data set.
"""

import os
from pathlib import Path
import runpy
import subprocess
import sys

from commands import free_port
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

import siglip_jax
from siglip_jax import losses
from siglip_jax import sharding
from siglip_jax.data import folders
from siglip_jax.data.embeddings import Embeddings

PATHS = [str(Path.cwd()), str(Path.cwd() / "tests")]  # of the two processes


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


def embed(place, workdir, out) -> list[str]:
  """Embeds the images of a place; the shards this process wrote."""
  from siglip_jax.data import embeddings
  from siglip_jax.embed import encode

  written, write = [], embeddings.write_shard
  embeddings.write_shard = lambda path, records: (
      written.append(path.name),
      write(path, records),
  )
  names = runpy.run_path(f"{place}/tiny.py")
  options = encode.Options(model=workdir, shard_size=10)
  encode.embed(names["get_config"](), out, options)
  return written


def main(index: str, port: str, out: str, *place: str) -> None:
  """One of the two processes."""
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", 4)
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(f"localhost:{port}", 2, int(index))
  found = values_and_gradients(sharding.make_mesh(data=4, fsdp=2))
  if index == "0":
    np.savez(out, **found)
  written = embed(*place)
  Path(f"{out}.{index}").write_text(" ".join(written))


@pytest.fixture(scope="module")
def both(tmp_path_factory, place, trained):
  """What the two wrote."""
  tmp_path = tmp_path_factory.mktemp("both")
  port = str(free_port())
  out = tmp_path / "found.npz"
  embedded = [str(p) for p in (place, trained, tmp_path / "embedded")]
  command = [sys.executable, __file__]
  running = [
      subprocess.Popen(
          [*command, str(i), port, str(out), *embedded],
          cwd=Path.cwd(),
          env={**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)},
          stderr=subprocess.PIPE,
          text=True,
      )
      for i in range(2)
  ]
  errors = [p.communicate(timeout=240)[1] for p in running]
  assert [p.returncode for p in running] == [0, 0], errors
  return tmp_path


def test_two_processes_of_four_devices_equal_one_of_eight(both):
  wanted = values_and_gradients(sharding.make_mesh(data=4, fsdp=2))
  with np.load(both / "found.npz") as found:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
      # The order of float32 sums over devices may differ, nothing else.
      np.testing.assert_allclose(
          found[name], value, rtol=1e-6, atol=1e-7, err_msg=name
      )


def test_two_processes_embed_each_its_own_shards(both, place, trained):
  shards = sorted(p.name for p in both.glob("embedded/*.array_record"))
  written = [(both / f"found.npz.{i}").read_text().split() for i in (0, 1)]
  assert written == [shards[0::2], shards[1::2]] and len(shards) == 5
  found = Embeddings(both / "embedded")
  images = folders.folder_source(place / "images", "train")
  names = [images.key(i) for i in range(len(images))]
  expected = siglip_jax.load(trained).encode_image(names)
  np.testing.assert_allclose(found.every(), expected, atol=1e-6)


def test_the_command_does_so_where_flags_name_the_others(
    command, both, place, trained, tmp_path
):
  port = free_port()
  running = [
      command.start(
          "siglip_jax.embed",
          f"--config={place / 'tiny.py'}",
          f"--model={trained}",
          f"--out={tmp_path / 'out'}",
          "--shard_size=10",
          f"--coordinator=localhost:{port}",
          "--num_processes=2",
          f"--process_id={i}",
          devices=4,
      )
      for i in range(2)
  ]
  out = [r.wait(status=0).out for r in running]
  assert "examples are in" in out[0] and "examples are in" not in out[1]
  found, wanted = Embeddings(tmp_path / "out"), Embeddings(both / "embedded")
  np.testing.assert_allclose(found.every(), wanted.every(), atol=1e-6)


if __name__ == "__main__":
  main(*sys.argv[1:])
