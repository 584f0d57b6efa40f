"""A config made concrete on a mesh; nothing is allocated before `init`."""

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
  """What a config is compiled to: the model, the state's shapes, the step.

  Args:
    config: validated.
    mesh: the devices.
    value_range: of the images, after scaling on the device.
    num_examples: in an epoch, where the data are known.
  """

  def __init__(
      self,
      config: ml_collections.ConfigDict,
      mesh: jax.sharding.Mesh,
      value_range: tuple[float, float] = (-1.0, 1.0),
      num_examples: int | None = None,
  ):
    self.config, self.mesh = config, mesh
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
    )
    self.train_step = jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(self.shardings, sharding.replicated(mesh)),
    )
    # Of a batch, before its update; the rest of the step is not computed.
    self.loss = jax.jit(
        lambda state, batch: step(state, batch)[1]["train/loss"]
    )
    self.learning_rates = jax.jit(self._learning_rates)

  def init(self) -> step_lib.TrainState:
    """The state at step 0, created in its shards."""
    init = jax.jit(self._init, out_shardings=self.shardings)
    return init(jax.random.key(self.config.seed))

  def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a global batch; images are rows of bytes."""
    n, (image, text_len) = self.config.batch_size, self._shapes
    image = (math.prod(image),)
    rows = sharding.batch_sharding(self.mesh)
    kind = np.uint8
    if self.model.embedded:  # as `embed` writes them unless told otherwise
      image, kind = (self.model.image_dim,), jnp.dtype(self.model.dtype)
    return {
        "image": jax.ShapeDtypeStruct((n, *image), kind, sharding=rows),
        "text": jax.ShapeDtypeStruct((n, text_len), np.int32, sharding=rows),
        "replaced": jax.ShapeDtypeStruct((n,), np.int32, sharding=rows),
    }

  def _learning_rates(self, step) -> dict[str, jax.Array]:
    """Metrics: `train/lr`, or one for each rule that trains."""
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
    )
    stored = self.optimizer.store(state.params)
    return dataclasses.replace(state, params=stored)
