"""The train step: microbatches, devices, frozen towers."""

import jax
import ml_collections
import numpy as np
import pytest

from siglip_jax import sharding
from siglip_jax import tree
from siglip_jax.errors import UserError
from siglip_jax.run import Run


def config(**changes):
  c = ml_collections.ConfigDict()
  c.seed, c.total_steps, c.batch_size, c.microbatch = 0, 10, 32, 0
  c.image_size, c.text_len = 16, 8
  c.model = dict(
      image=dict(width=64, depth=1, mlp_dim=128, num_heads=2, patch=8),
      text=dict(width=64, depth=1, mlp_dim=128, num_heads=2, vocab_size=64),
      out_dim=(None, 64),
      bias_init=-3.0,
  )
  c.loss = dict(name="ring_sigmoid", block=3)
  # SGD: parameters move in proportion to gradients, so they compare them.
  c.optim = dict(
      name="sgd", lr=0.1, wd=1e-3, schedule=[(".*", dict(decay="none"))]
  )
  c.mesh = dict(data=-1)
  c.sharding = [(".*", "fsdp")]
  for key, value in changes.items():
    c[key] = value
  return c


def batches(steps=3, n=32):
  rng = np.random.default_rng(0)
  return [
      {
          "image": rng.integers(0, 256, (n, 16, 16, 3), np.uint8),
          "text": rng.integers(0, 64, (n, 8), np.int32),
          "replaced": np.full(n, -1, np.int32),
      }
      for _ in range(steps)
  ]


def train(c, devices=8, steps=3):
  run = Run(c, sharding.make_mesh(**c.mesh, devices=jax.devices()[:devices]))
  state, losses = run.init(), []
  first = jax.device_get(state.params)
  for batch in batches(steps):
    batch = jax.device_put(batch, sharding.batch_sharding(run.mesh))
    state, metrics = run.train_step(state, batch)
    losses.append(float(metrics["train/loss"]))
  return run, first, state, losses


@pytest.fixture(scope="module")
def reference():
  return train(config(), devices=1)


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
  got = train(config(mesh=mesh, sharding=rules))
  assert_same(got, reference)
  kernel = got[2].params["img"]["Transformer"]["encoderblock_0"]["MlpBlock_0"][
      "Dense_0"
  ]["kernel"]
  parts = got[0].mesh.shape["fsdp"] * got[0].mesh.shape["tensor"]
  assert kernel.addressable_shards[0].data.size == kernel.size // parts


def test_microbatches_give_the_gradients_of_the_full_batch(reference):
  assert_same(train(config(microbatch=8)), reference)


@pytest.mark.parametrize("microbatch", [0, 16])
def test_fused_attention_gives_the_same_steps_in_slices_and_shards(
    reference, microbatch
):
  fused = config(microbatch=microbatch, mesh=dict(data=2, fsdp=2, tensor=2))
  fused.model.attention = "fused"
  assert_same(train(fused), reference)


def test_a_frozen_tower_keeps_every_bit_and_no_memory():
  optim = dict(
      lr=1e-2,
      schedule=[("img/.*", None), (".*", dict(decay="none"))],
  )
  _, before, state, _ = train(config(optim=optim))
  after = tree.flatten(jax.device_get(state.params))
  for name, value in tree.flatten(before).items():
    assert np.array_equal(value, after[name]) == name.startswith("img/"), name
  held = sum(x.nbytes for x in jax.tree.leaves(state.opt_state))
  trained = sum(v.nbytes for n, v in after.items() if not n.startswith("img/"))
  assert held < 2 * trained + 100  # Adam's two moments and its counters


def test_replaced_examples_are_counted_on_device():
  run = Run(config(), sharding.make_mesh())
  batch = batches(1)[0]
  batch["replaced"][[3, 20]] = 7
  batch = jax.device_put(batch, sharding.batch_sharding(run.mesh))
  state, metrics = run.train_step(run.init(), batch)
  assert int(metrics["data/replaced"]) == int(state.replaced) == 2


def test_each_rule_that_trains_has_its_rate_logged():
  one = Run(config(), sharding.make_mesh())
  assert {k: float(v) for k, v in one.learning_rates(3).items()} == (
      pytest.approx({"train/lr": 0.1})
  )
  optim = dict(
      lr=0.5,
      schedule=[
          ("img/.*", None),
          ("txt/.*", dict(decay="none", warmup_steps=4)),
          (".*", dict(decay="none")),
      ],
  )
  two = Run(config(optim=optim), sharding.make_mesh())
  assert {k: float(v) for k, v in two.learning_rates(1).items()} == (
      pytest.approx({"train/lr/txt/.*": 0.125, "train/lr/.*": 0.5})
  )


def test_epochs_are_those_of_the_training_data():
  rule = [(".*", dict(decay="none", warmup_epochs=1))]
  c = config(optim=dict(lr=0.5, schedule=rule))
  run = Run(c, sharding.make_mesh(), num_examples=128)
  rates = [float(run.learning_rates(n)["train/lr"]) for n in range(6)]
  assert rates == [0.0, 0.125, 0.25, 0.375, 0.5, 0.5]
  with pytest.raises(UserError, match="warmup_epochs needs .*warmup_steps"):
    Run(c, sharding.make_mesh())
