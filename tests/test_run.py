"""A config made concrete: shapes, the state in its shards, the loss alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from siglip_jax import sharding
from siglip_jax.errors import UserError
from siglip_jax.run import Run


def shallow(**changes):
  """Towers without blocks, which compile in a moment."""
  c = toy.config(**changes)
  c.model.image.depth = c.model.text.depth = 0
  c.model.image.pool_type = "gap"
  return c


@pytest.fixture(scope="module")
def run():
  rules = [("txt/Embed_0/.*", (None, "fsdp")), (".*", "replicate")]
  c = shallow(mesh=dict(data=2, fsdp=4), sharding=rules)
  return Run(c, sharding.make_mesh(**c.mesh))


@pytest.fixture(scope="module")
def state(run):
  return run.init()


def test_the_state_is_made_in_its_shards(run, state):
  assert int(state.step) == int(state.replaced) == 0
  shapes = jax.tree.leaves(run.state_shapes)
  for x, shape in zip(jax.tree.leaves(state), shapes, strict=True):
    assert (x.shape, x.dtype) == (shape.shape, shape.dtype)
    assert x.sharding.is_equivalent_to(shape.sharding, x.ndim)
  table = state.params["txt"]["Embed_0"]["embedding"]
  assert table.addressable_shards[0].data.shape == (64, 16)


def test_the_loss_alone_is_that_of_the_step_and_keeps_the_state(run, state):
  batch = jax.device_put(toy.batches(1)[0], sharding.batch_sharding(run.mesh))
  alone = float(run.loss(state, batch))
  assert not any(x.is_deleted() for x in jax.tree.leaves(state))
  _, metrics = run.train_step(jax.tree.map(jnp.copy, state), batch)
  np.testing.assert_allclose(alone, metrics["train/loss"], rtol=1e-6)


def test_a_batch_is_rows_of_bytes_or_embeddings():
  c = toy.config()
  shapes = Run(c, sharding.make_mesh()).batch_shapes()
  assert {k: (x.shape, x.dtype) for k, x in shapes.items()} == {
      "image": ((32, 16 * 16 * 3), np.uint8),
      "text": ((32, 8), np.int32),
      "replaced": ((32,), np.int32),
  }
  assert shapes["image"].sharding.shard_shape((32, 768)) == (4, 768)
  c.model.embedded, c.model.dtype = True, "bfloat16"
  image = Run(c, sharding.make_mesh()).batch_shapes()["image"]
  assert (image.shape, image.dtype) == ((32, 64), jnp.bfloat16)


@pytest.mark.parametrize(
    "changes, match",
    [
        (dict(batch_size=12), "config.batch_size .* got 12: .* 8 and 16"),
        (dict(microbatch=4), "config.microbatch .* got 4: .* 8 and 16"),
    ],
)
def test_what_does_not_divide_over_the_devices_is_named(changes, match):
  with pytest.raises(UserError, match=match):
    Run(toy.config(**changes), sharding.make_mesh(fsdp=2))


def test_each_rule_that_trains_has_its_rate_logged():
  one = Run(toy.config(), sharding.make_mesh())
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
  two = Run(toy.config(optim=optim), sharding.make_mesh())
  assert {k: float(v) for k, v in two.learning_rates(1).items()} == (
      pytest.approx({"train/lr/txt/.*": 0.125, "train/lr/.*": 0.5})
  )


def test_epochs_are_those_of_the_training_data():
  rule = [(".*", dict(decay="none", warmup_epochs=1))]
  c = toy.config(optim=dict(lr=0.5, schedule=rule))
  run = Run(c, sharding.make_mesh(), num_examples=128)
  rates = [float(run.learning_rates(n)["train/lr"]) for n in range(6)]
  assert rates == [0.0, 0.125, 0.25, 0.375, 0.5, 0.5]
  with pytest.raises(UserError, match="warmup_epochs needs .*warmup_steps"):
    Run(c, sharding.make_mesh())


def test_a_step_that_cannot_be_built_is_told_before_a_run_starts(run):
  run.trace()
  c = shallow(loss=dict(name="ring_sigmoid", block=0))  # not validated
  with pytest.raises(UserError, match="cannot be built: block must be a pos"):
    Run(c, run.mesh).trace()
