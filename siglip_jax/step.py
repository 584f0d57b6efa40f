"""The train state and the jitted train step."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
from typing import Any
from typing import cast

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array
import optax

from siglip_jax import sharding
from siglip_jax import tree
from siglip_jax.models import two_towers
from siglip_jax.models.two_towers import TwoTowers
from siglip_jax.optim import Optimizer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
  """All that changes while training: arrays, or their shapes or shardings."""

  step: Any
  replaced: Any  # examples that could not be read, so far
  params: dict
  opt_state: optax.OptState


def init_state(
    model: TwoTowers,
    tx: optax.GradientTransformation,
    trainable: frozenset,
    key: Array,
    image_shape: tuple[int, int, int],
    text_len: int,
) -> TrainState:
  """The state at step 0; call under jit with `shardings` as out_shardings."""
  params = model.init(key, image_shape, text_len)
  opt_state = tx.init(tree.select(params, trainable))
  zero = jnp.int32(0)
  return TrainState(
      step=zero, replaced=zero, params=params, opt_state=opt_state
  )


def shardings(
    mesh: jax.sharding.Mesh, rules, state_shapes: TrainState
) -> TrainState:
  """Where each part of the state lives."""
  params = sharding.param_shardings(mesh, rules, state_shapes.params)
  placed = jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      state_shapes.params,
      params,
  )
  return TrainState(
      step=sharding.replicated(mesh),
      replaced=sharding.replicated(mesh),
      params=params,
      opt_state=sharding.state_shardings(mesh, placed, state_shapes.opt_state),
  )


def microbatched(
    encode: Callable[[dict, Array], Array], mesh: jax.sharding.Mesh, count: int
) -> Callable[[dict, Array], Array]:
  """`encode` over `count` slices of the batch, recomputed in the backward pass.

  Only the inputs and the embeddings of the whole batch are ever held. Each
  device cuts its own rows into slices, so no example moves. Devices exchange
  parameters once before the first slice, if they are sharded, and gradients
  once after the last.
  """
  if count == 1:
    return encode
  axes = sharding.BATCH_AXES

  def encode_all(params, x):
    x = x.reshape(count, len(x) // count, *x.shape[1:])
    z = jax.lax.map(lambda xi: jax.checkpoint(encode)(params, xi), x)
    return z.reshape(-1, z.shape[-1])

  return jax.shard_map(
      encode_all,
      mesh=mesh,
      in_specs=(P(), P(axes)),
      out_specs=P(axes),
      axis_names=set(axes),
      # Tracked, parameters would turn from shared to each device's own inside
      # the loop, and their gradients be summed there, once a slice.
      check_vma=False,
  )


def make_train_step(
    *,
    model: TwoTowers,
    loss: Callable[..., Array],
    optimizer: Optimizer,
    mesh: jax.sharding.Mesh,
    microbatches: int,
    value_range: tuple[float, float],
    image_shape: tuple[int, int, int],
    seed: int = 0,
) -> Callable[[TrainState, Mapping], tuple[TrainState, dict[str, Array]]]:
  """Returns step(state, batch) -> (state, metrics).

  A batch is `image` (uint8), `text` (int32) and `replaced` (int32: -1, or the
  example that could not be read in this place). `seed` seeds the loss's
  randomness, folded with the step. Where the model is `embedded`, `image` is
  embeddings of the images, L2-normalised, of any float type. Images of
  `image_shape` come best as rows of bytes, (B, H*W*3): with their axes apart, a
  TPU keeps a batch with the examples innermost, and has to copy all of it to
  cut it into microbatches.
  """

  def encode_bytes(params, images):
    images = images.reshape(-1, *image_shape)
    return model.encode_image(params, two_towers.scale(images, value_range))

  def embedded(params, z):
    del params
    # Not normalised again: bfloat16 embeddings stay what a loss in bfloat16
    # rounds them to.
    return z.astype(jnp.float32)

  encode_image = (
      embedded
      if model.embedded
      else microbatched(encode_bytes, mesh, microbatches)
  )
  encode_text = microbatched(model.encode_text, mesh, microbatches)

  def train_step(state, batch):
    train = tree.select(state.params, optimizer.trainable)
    frozen = tree.select(state.params, optimizer.frozen)

    key = jax.random.fold_in(jax.random.key(seed), state.step)

    def loss_fn(train):
      params = tree.merge(train, frozen)
      zimg = encode_image(params, batch["image"])
      ztxt = encode_text(params, batch["text"])
      return loss(zimg, ztxt, params, key)

    value, grads = jax.value_and_grad(loss_fn)(train)
    updates, opt_state = optimizer.tx.update(grads, state.opt_state, train)
    train = cast(dict, optax.apply_updates(train, updates))
    replaced = state.replaced + jnp.sum(batch["replaced"] >= 0)
    metrics = {
        "train/loss": value,
        "data/replaced": replaced,
        "train/grad_norm": optax.tree.norm(grads),
        "train/update_norm": optax.tree.norm(updates),
        "train/temperature": jnp.exp(state.params["t"][0]),
    }
    if "b" in state.params:
      metrics["train/bias"] = state.params["b"][0]
    state = TrainState(
        step=state.step + 1,
        replaced=replaced,
        params=tree.merge(train, frozen),
        opt_state=opt_state,
    )
    return state, metrics

  return sharding.on_mesh(mesh, train_step)
