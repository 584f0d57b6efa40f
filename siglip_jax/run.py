"""A config compiled for a mesh; nothing is allocated before `init`."""

from collections.abc import Mapping
import dataclasses
import math

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from siglip_jax import losses
from siglip_jax import optim
from siglip_jax import sharding
from siglip_jax import step as step_lib
from siglip_jax.errors import UserError
from siglip_jax.models.two_towers import TwoTowers


class Run:
  """The model, optimizer, state shapes and train step of a config on a mesh.

  Args:
    config: a validated config.
    mesh: the device mesh.
    value_range: range that images are scaled to on the device.
    num_examples: number of examples in an epoch, or None if unknown.
    sources: for a mixture, name of each source -> index of its first record.
  """

  def __init__(
      self,
      config: ml_collections.ConfigDict,
      mesh: jax.sharding.Mesh,
      value_range: tuple[float, float] = (-1.0, 1.0),
      num_examples: int | None = None,
      sources: Mapping[str, int] | None = None,
  ):
    self.config, self.mesh, self._sources = config, mesh, sources or {}
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    per_step = config.microbatch or config.batch_size
    if per_step % devices:
      raise UserError(
          f"config.{'microbatch' if config.microbatch else 'batch_size'} must"
          f" divide over {devices} devices (mesh {dict(mesh.shape)}); got"
          f" {per_step}: the nearest are"
          f" {sharding.nearest_multiples(per_step, devices)}."
      )
    self.model = TwoTowers(**config.model.to_dict())
    side = config.image_size
    self._shapes = ((side, side, 3), config.text_len)
    self.optimizer = optim.make(
        self.model.shapes(*self._shapes),
        config.total_steps,
        config.batch_size,
        num_examples,
        **config.optim.to_dict(),
    )
    shapes = jax.eval_shape(self._init, jax.random.key(0))
    self.shardings = step_lib.shardings(mesh, config.sharding, shapes)
    self.state_shapes = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        shapes,
        self.shardings,
    )
    loss = losses.make(mesh, sharding.BATCH_AXES, **config.loss)
    microbatches = (
        config.batch_size // config.microbatch if config.microbatch else 1
    )
    step = step_lib.make_train_step(
        model=self.model,
        loss=loss,
        optimizer=self.optimizer,
        mesh=mesh,
        microbatches=microbatches,
        value_range=value_range,
        image_shape=self._shapes[0],
        seed=config.seed,
        sources=self._sources,
    )
    self.train_step = jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(self.shardings, sharding.replicated(mesh)),
    )
    # The loss of a batch before its update; the rest of the step is not run.
    self.loss = jax.jit(
        lambda state, batch: step(state, batch)[1]["train/loss"]
    )
    self.learning_rates = jax.jit(self._learning_rates)

  def init(self) -> step_lib.TrainState:
    """Returns the state at step 0, created shard by shard."""
    init = jax.jit(self._init, out_shardings=self.shardings)
    return init(jax.random.key(self.config.seed))

  def trace(self) -> None:
    """Traces the train step, which finds what only fails there.

    Nothing is computed, and the first step does not trace again.

    Raises:
      UserError: the step cannot be built.
    """
    try:
      self.train_step.eval_shape(self.state_shapes, self.batch_shapes())
    # A bad value can raise any of these inside JAX or Flax.
    except (TypeError, ValueError, LookupError, ArithmeticError) as e:
      raise UserError(
          "The train step of this config cannot be built:"
          f" {(str(e).strip().splitlines() or [''])[0][:200]}"
      ) from None

  def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a global batch; images are rows of bytes."""
    n, (image, text_len) = self.config.batch_size, self._shapes
    image = (math.prod(image),)
    rows = sharding.batch_sharding(self.mesh)
    dtype = np.uint8
    if self.model.embedded:  # the dtype that `embed` writes by default
      image, dtype = (self.model.image_dim,), jnp.dtype(self.model.dtype)
    return {
        "image": jax.ShapeDtypeStruct((n, *image), dtype, sharding=rows),
        "text": jax.ShapeDtypeStruct((n, text_len), np.int32, sharding=rows),
        "replaced": jax.ShapeDtypeStruct((n,), np.int32, sharding=rows),
    }

  def _learning_rates(self, step) -> dict[str, jax.Array]:
    """Returns `train/lr`, or one metric per schedule rule that trains."""
    rates = self.optimizer.lr_at(step)
    names = [f"train/lr/{r}" for r in rates] if len(rates) > 1 else ["train/lr"]
    return dict(zip(names, rates.values(), strict=True))

  def _init(self, key):
    state = step_lib.init_state(
        self.model,
        self.optimizer.tx,
        self.optimizer.trainable,
        key,
        *self._shapes,
        sources=len(self._sources),
    )
    stored = self.optimizer.store(state.params)
    return dataclasses.replace(state, params=stored)
