"""The train step: microbatches, devices, frozen towers."""

import re

import jax
from jax.extend import core
from ml_dtypes import bfloat16
import numpy as np
import pytest
import toy

from siglip_jax import sharding
from siglip_jax import step as step_lib
from siglip_jax import tree
from siglip_jax.models import two_towers
from siglip_jax.plan import estimate
from siglip_jax.run import Run


def locking(**img):
  """Adam that locks the image tower, or trains it by this schedule."""
  return dict(
      lr=1e-2,
      clip_norm=0.1,
      schedule=[("img/.*", img or None), (".*", dict(decay="none"))],
  )


def train(c, devices=8, steps=3, data=None, rows=False):
  """Some steps; `rows` gives images as `main` does, as rows of bytes."""
  run = Run(c, sharding.make_mesh(**c.mesh, devices=jax.devices()[:devices]))
  state, losses = run.init(), []
  first = jax.device_get(state.params)
  for batch in data or toy.batches(steps):
    if rows:
      batch["image"] = batch["image"].reshape(len(batch["image"]), -1)
    batch = jax.device_put(batch, sharding.batch_sharding(run.mesh))
    state, metrics = run.train_step(state, batch)
    losses.append(float(metrics["train/loss"]))
  return run, first, state, losses


@pytest.fixture(scope="module")
def reference():
  return train(toy.config(), devices=1)


def assert_same(a, b, rtol=1e-5):
  """Equal to float32 rounding: only the order of sums may differ."""
  np.testing.assert_allclose(a[3], b[3], rtol=rtol)
  a, b = (tree.flatten(jax.device_get(x[2].params)) for x in (a, b))
  for name in a:
    np.testing.assert_allclose(
        a[name], b[name], rtol=1e-5, atol=1e-5, err_msg=name
    )


@pytest.mark.parametrize(
    "mesh", [dict(data=8), dict(data=2, fsdp=4), dict(data=2, fsdp=2, tensor=2)]
)
def test_eight_devices_give_the_losses_of_one(reference, mesh):
  rules = [
      (".*/(query|key|value)/kernel", ("fsdp", "tensor", None)),
      (".*/Dense_0/kernel", ("fsdp", "tensor")),
      (".*", "fsdp"),
  ]
  got = train(toy.config(mesh=mesh, sharding=rules))
  assert_same(got, reference)
  kernel = got[2].params["img"]["Transformer"]["encoderblock_0"]["MlpBlock_0"][
      "Dense_0"
  ]["kernel"]
  parts = got[0].mesh.shape["fsdp"] * got[0].mesh.shape["tensor"]
  assert kernel.addressable_shards[0].data.size == kernel.size // parts


def test_microbatches_give_the_gradients_of_the_full_batch(reference):
  assert_same(train(toy.config(microbatch=8), rows=True), reference)


@pytest.mark.tpu_compile
def test_no_second_copy_of_the_images_is_made(slices):
  where = slices("v4:2x2x1")
  c = toy.config(batch_size=4096, microbatch=512)
  _, lowered = estimate.lower(c, where)
  text = lowered.compile().as_text()
  entry = text[text.index("ENTRY ") :]
  assert re.search(r"= u8\[1024,768\]\S* parameter\(", entry)
  copies = re.findall(r"= (u8\[[\d,]+\])\S* (?:copy|fusion|transpose)\(", entry)
  assert not copies


@pytest.mark.parametrize("microbatch", [0, 16])
def test_fused_attention_gives_the_same_steps_in_slices_and_shards(
    reference, microbatch
):
  fused = toy.config(microbatch=microbatch, mesh=dict(data=2, fsdp=2, tensor=2))
  fused.model.attention = "fused"
  assert_same(train(fused), reference)


@pytest.fixture(scope="module")
def locked():
  return train(toy.config(optim=locking()), devices=1, steps=2)


def test_a_frozen_tower_keeps_every_bit_and_no_memory(locked):
  assert_frozen(locked, "img")


def test_a_frozen_text_tower_does_so_too_on_eight_devices():
  rules = [("txt/.*", None), (".*", dict(decay="none"))]
  c = toy.config(optim=dict(lr=1e-2, schedule=rules))
  assert_frozen(train(c, steps=2), "txt")


def assert_frozen(trained, tower):
  _, before, state, _ = trained
  after = tree.flatten(jax.device_get(state.params))
  for name, value in tree.flatten(before).items():
    same = np.array_equal(value, after[name])
    assert same == name.startswith(f"{tower}/"), name
  held = sum(x.nbytes for x in jax.tree.leaves(state.opt_state))
  moving = sum(
      v.nbytes for n, v in after.items() if not n.startswith(f"{tower}/")
  )
  assert held < 2 * moving + 100  # Adam's two moments and its counters


def matmuls(jaxpr, side):
  """How often a matmul with an operand of this side is written down."""
  found = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      found += any(side in x.aval.shape for x in equation.invars)
    for inner in core.jaxprs_in_params(equation.params):
      found += matmuls(getattr(inner, "jaxpr", inner), side)
  return found


@pytest.mark.parametrize("locked", ["img", "txt"])
@pytest.mark.parametrize("microbatch", [0, 16])
@pytest.mark.parametrize("remat", ["none", "full"])
def test_of_a_locked_tower_only_the_forward_pass_is_made(
    locked, microbatch, remat
):
  c = toy.config(microbatch=microbatch)
  c.model.remat, c.model.image.pool_type = remat, "gap"
  c.model.image.mlp_dim, c.model.text.mlp_dim = 136, 152
  sides = {"img": 136, "txt": 152}
  c.optim = dict(lr=1.0, schedule=[(f"{locked}/.*", None), (".*", {})])
  run = Run(c, sharding.make_mesh())
  step = jax.make_jaxpr(run.train_step)(run.state_shapes, run.batch_shapes())
  # Into the hidden layer and out of it again, once.
  assert matmuls(step.jaxpr, sides.pop(locked)) == 2
  # The other tower's gradients by both operands, and what it recomputes.
  assert matmuls(step.jaxpr, *sides.values()) >= 6


def test_a_delayed_tower_is_locked_until_then_and_trains_from_there(locked):
  c = toy.config(optim=locking(decay="none", delay_steps=2))
  run, first, state, losses = train(c, devices=1, steps=2)
  assert losses == locked[3]
  first, now = tree.flatten(first), tree.flatten(jax.device_get(state.params))
  for name, value in tree.flatten(jax.device_get(locked[2].params)).items():
    np.testing.assert_array_equal(now[name], value, err_msg=name)
    assert np.array_equal(value, first[name]) == name.startswith("img/"), name
  batch = jax.device_put(toy.batches(1)[0], sharding.batch_sharding(run.mesh))
  state, _ = run.train_step(state, batch)
  for name, value in tree.flatten(jax.device_get(state.params)).items():
    assert not np.array_equal(value, now[name]), name


def test_a_frozen_tower_may_be_kept_and_run_in_bfloat16(locked):
  c = toy.config(optim=locking() | dict(frozen_dtype="bfloat16"))
  c.model.image.dtype = "bfloat16"
  run, _, state, losses = train(c, devices=1, steps=2)
  for name, x in tree.flatten(state.params).items():
    assert (x.dtype == "bfloat16") == name.startswith("img/"), name
  jaxpr = str(jax.make_jaxpr(run.train_step)(state, run.batch_shapes()))
  assert "bf16[32,4,128]" in jaxpr  # the MLP of the image tower
  assert "bf16[32,8,128]" not in jaxpr  # nor of the text tower
  np.testing.assert_allclose(losses, locked[3], rtol=1e-2)


def test_bfloat16_embeddings_give_the_steps_of_the_tower_that_made_them():
  lock = [("img/.*", None), (".*", dict(decay="none"))]
  online = toy.config()
  online.model.dtype = online.loss.dtype = "bfloat16"
  online.optim.schedule = lock
  run, _, state, losses = train(online, devices=1)
  encode = jax.jit(
      lambda p, x: run.model.encode_image(p, two_towers.scale(x, (-1, 1)))
  )
  given = [
      b | {"image": np.asarray(encode(state.params, b["image"]), bfloat16)}
      for b in toy.batches()
  ]
  online.optim.schedule = lock[1:]
  online.model.embedded = True
  cached = train(online, devices=1, data=given)
  # Equal where this was written; another CPU may round otherwise in places.
  np.testing.assert_allclose(cached[3], losses, rtol=1e-5)
  assert "img" not in cached[2].params


def test_replaced_examples_are_counted_on_device():
  run = Run(toy.config(), sharding.make_mesh())
  batch = toy.batches(1)[0]
  batch["replaced"][[3, 20]] = 7
  batch = jax.device_put(batch, sharding.batch_sharding(run.mesh))
  state, metrics = run.train_step(run.init(), batch)
  assert int(metrics["data/replaced"]) == int(state.replaced) == 2


def test_replaced_examples_of_a_mixture_are_counted_for_each_source():
  sources = {"cc3m": 0, "coco": 1000, "mine": 1005}
  c = toy.config()
  c.model.image.depth = c.model.text.depth = 0
  c.model.image.pool_type = "gap"
  run = Run(c, sharding.make_mesh(), sources=sources)
  state = run.init()
  for _ in range(2):
    batch = toy.batches(1)[0]
    batch["replaced"][[3, 20, 21, 30]] = 0, 999, 1000, 1005
    batch = jax.device_put(batch, sharding.batch_sharding(run.mesh))
    state, metrics = run.train_step(state, batch)
  counts = {k: int(v) for k, v in metrics.items() if "replaced" in k}
  assert counts == {
      "data/replaced": 8,
      "data/replaced/cc3m": 4,
      "data/replaced/coco": 2,
      "data/replaced/mine": 2,
  }
  assert state.replaced.tolist() == [4, 2, 2]


def test_the_temperature_rises_to_its_limit_and_stays_there():
  rules = [("t", dict(decay="none")), (".*", None)]
  sgd = dict(name="sgd", lr=0.1, options=dict(momentum=0.0), schedule=rules)
  c = toy.config(mesh=dict(data=-1, fsdp=2), optim=sgd)
  c.model.image.depth = c.model.text.depth = 0
  c.optim.max_temperature = 12.0
  run = Run(c, sharding.make_mesh(**c.mesh))
  step = step_lib.make_train_step(
      model=run.model,
      loss=lambda zimg, ztxt, params, key: -params["t"][0],  # its gradient: -1
      optimizer=run.optimizer,
      mesh=run.mesh,
      microbatches=1,
      value_range=(-1, 1),
      image_shape=(16, 16, 3),
  )
  step = jax.jit(step, out_shardings=(run.shardings, None))
  batch = jax.device_put(toy.batches(1)[0], sharding.batch_sharding(run.mesh))
  state, temperatures = run.init(), []
  for _ in range(4):
    state, metrics = step(state, batch)
    temperatures.append(float(metrics["train/temperature"]))
  # From 10, by a factor of exp(0.1), and once more would be 12.2.
  expected = [10, 10 * np.exp(0.1), 12, 12]
  np.testing.assert_allclose(temperatures, expected, rtol=1e-5)
  assert float(state.params["t"][0]) <= np.log(12)
