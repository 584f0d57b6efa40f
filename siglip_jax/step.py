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
  """Everything that training changes: arrays, or their shapes or shardings.

  Attributes:
    step: number of updates made.
    replaced: number of examples so far that could not be read; of a mixture,
      the number from each source.
    params: the parameters, trainable and frozen.
    opt_state: the optimizer state of the trainable parameters.
  """

  step: Any
  replaced: Any
  params: dict
  opt_state: optax.OptState


def init_state(
    model: TwoTowers,
    tx: optax.GradientTransformation,
    trainable: frozenset,
    key: Array,
    image_shape: tuple[int, int, int],
    text_len: int,
    sources: int = 0,
) -> TrainState:
  """Returns the state at step 0; jit it with `shardings` as out_shardings.

  Replaced examples are counted for each of `sources` sources of a mixture, or
  together if that is 0.
  """
  params = model.init(key, image_shape, text_len)
  opt_state = tx.init(tree.select(params, trainable))
  replaced = jnp.zeros((sources,) if sources else (), jnp.int32)
  return TrainState(
      step=jnp.int32(0), replaced=replaced, params=params, opt_state=opt_state
  )


def shardings(
    mesh: jax.sharding.Mesh, rules, state_shapes: TrainState
) -> TrainState:
  """Returns the sharding of each part of the state."""
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
  """Runs `encode` on `count` slices of the batch, one at a time.

  The backward pass recomputes each slice, so of the whole batch only the inputs
  and the embeddings are held. Each device cuts its own rows into slices, so no
  example moves between devices. Devices exchange sharded parameters once before
  the first slice, and gradients once after the last slice.
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
      # With check_vma, parameters would become device-varying inside the loop,
      # and their gradients would be summed over devices there, once per slice.
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
    sources: Mapping[str, int] | None = None,
) -> Callable[[TrainState, Mapping], tuple[TrainState, dict[str, Array]]]:
  """Returns step(state, batch) -> (state, metrics).

  A batch has `image` (uint8), `text` (int32) and `replaced` (int32: -1, or the
  index of the example that could not be read and was replaced). If the model is
  `embedded`, `image` holds L2-normalised embeddings of the images, of any float
  type.

  Pass images as rows of bytes, (B, H*W*3). If their axes are separate, a TPU
  keeps the batch with the examples innermost, and must copy all of it to cut it
  into microbatches.

  Args:
    model: the model.
    loss: loss(zimg, ztxt, params, key).
    optimizer: the optimizer.
    mesh: the device mesh.
    microbatches: number of slices that each tower encodes one after another.
    value_range: range that image bytes are scaled to.
    image_shape: shape of an image, (H, W, 3).
    seed: seed of the loss's random key, which is folded with the step.
    sources: for a mixture, name of each source -> index of its first record, in
      order. The state and the metrics then count replaced examples of each.
  """
  sources = sources or {}

  def encode_bytes(params, images):
    images = images.reshape(-1, *image_shape)
    return model.encode_image(params, two_towers.scale(images, value_range))

  def use_embeddings(params, z):
    del params
    # Not normalised again, so that a bfloat16 loss rounds bfloat16 embeddings
    # back to the same values.
    return z.astype(jnp.float32)

  encode_image = (
      use_embeddings
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
    train = optimizer.limit(cast(dict, optax.apply_updates(train, updates)))
    replaced = state.replaced + _count(batch["replaced"], sources)
    metrics = {
        "train/loss": value,
        "data/replaced": jnp.sum(replaced),
        "train/grad_norm": optax.tree.norm(grads),
        "train/update_norm": optax.tree.norm(updates),
        "train/temperature": jnp.exp(state.params["t"][0]),
    }
    if "b" in state.params:
      metrics["train/bias"] = state.params["b"][0]
    for number, name in enumerate(sources):
      metrics[f"data/replaced/{name}"] = replaced[number]
    state = TrainState(
        step=state.step + 1,
        replaced=replaced,
        params=tree.merge(train, frozen),
        opt_state=opt_state,
    )
    return state, metrics

  return sharding.on_mesh(mesh, train_step)


def _count(replaced: Array, sources: Mapping[str, int]) -> Array:
  """Returns how many examples were replaced, in all or of each source."""
  if not sources:
    return jnp.sum(replaced >= 0)
  starts = jnp.array(list(sources.values()), replaced.dtype)
  source = jnp.searchsorted(starts, replaced, side="right") - 1
  # -1, an example that could be read, is before the first source.
  return jnp.sum(source[:, None] == jnp.arange(len(sources))[None], axis=0)
