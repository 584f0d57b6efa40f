import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from siglip_jax import optim
from siglip_jax import schedules
from siglip_jax.errors import UserError

RUN = dict(total_steps=100, batch_size=8)
CONSTANT = [(".*", dict(decay="none"))]
PARAMS = {
    "img": {"kernel": jnp.linspace(-1, 2, 12).reshape(3, 4)},
    "txt": {"kernel": jnp.linspace(1, 3, 8).reshape(2, 4)},
    "b": jnp.float32([-10.0]),
}
ONES = jax.tree.map(jnp.ones_like, PARAMS)


def make(params=PARAMS, **kwargs):
  return optim.make(params, **(RUN | dict(lr=0.1, schedule=CONSTANT) | kwargs))


def step(optimizer, params, grads, state=None):
  if state is None:
    state = optimizer.tx.init(params)
  updates, state = jax.jit(optimizer.tx.update)(grads, state, params)
  return optax.apply_updates(params, updates), state


def moved(before, after):
  return jax.tree.map(lambda a, b: np.asarray(b - a), before, after)


def schedule(**kwargs):
  return schedules.make(**(RUN | kwargs))


def test_adam_is_the_numpy_loop():
  params = {"a": {"kernel": jnp.float32([[1.0, -2.0], [3.0, 0.5]])}}
  optimizer = make(
      params,
      lr=0.01,
      wd=0.02,
      wd_mults=((".*", 1.0),),
      clip_norm=1.0,
      schedule=[(".*", dict(decay="linear", warmup_steps=2))],
      total_steps=10,
  )
  rng = np.random.default_rng(0)
  p = np.array(params["a"]["kernel"], np.float64)
  m, v, state = np.zeros_like(p), np.zeros_like(p), None
  for i, multiplier in enumerate([0.0, 0.5, 1.0]):
    g = np.float32(rng.normal(size=p.shape) * 3)
    params, state = step(optimizer, params, {"a": {"kernel": g}}, state)
    g = np.float64(g) * min(1.0, 1.0 / np.linalg.norm(g))
    m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
    mhat, vhat = m / (1 - 0.9 ** (i + 1)), v / (1 - 0.95 ** (i + 1))
    p -= multiplier * (0.01 * mhat / (np.sqrt(vhat) + 1e-8) + 0.02 * p)
    np.testing.assert_allclose(params["a"]["kernel"], p, rtol=1e-6)


def test_weight_decay_knows_no_learning_rate():
  zeros = jax.tree.map(jnp.zeros_like, PARAMS)
  for lr in (1e-3, 1.0):
    after, _ = step(make(lr=lr, wd=0.1), PARAMS, zeros)
    np.testing.assert_allclose(
        after["img"]["kernel"], 0.9 * PARAMS["img"]["kernel"], rtol=1e-6
    )
    np.testing.assert_array_equal(after["b"], PARAMS["b"])


def test_the_schedule_scales_weight_decay():
  zeros = jax.tree.map(jnp.zeros_like, PARAMS)
  rules = [(".*", dict(decay="none", warmup_steps=4))]
  optimizer = make(wd=0.1, schedule=rules)
  after, state = step(optimizer, PARAMS, zeros)
  np.testing.assert_array_equal(after["b"], PARAMS["b"])
  again, _ = step(optimizer, after, zeros, state)
  np.testing.assert_allclose(
      again["img"]["kernel"], (1 - 0.1 / 4) * PARAMS["img"]["kernel"], rtol=1e-6
  )


def test_clipping_is_global_and_over_the_trainable():
  rules = [("img/.*", None), *CONSTANT]
  optimizer = make(
      name="sgd",
      lr=1.0,
      clip_norm=0.5,
      schedule=rules,
      lr_mults=((".*", 1.0),),
      options=dict(momentum=0.0),
  )
  params = {k: PARAMS[k] for k in ("txt", "b")}
  grads = {"txt": {"kernel": jnp.ones((2, 4))}, "b": jnp.ones(1)}
  after, _ = step(optimizer, params, grads)
  delta = moved(params, after)
  # Nine ones have norm 3: scaled to 0.5, each is 1 / 6.
  for leaf in jax.tree.leaves(delta):
    np.testing.assert_allclose(leaf, -1 / 6, rtol=1e-5)


def test_small_gradients_and_none_are_not_clipped():
  grads = jax.tree.map(lambda x: 100 * x, ONES)
  sgd = dict(name="sgd", lr=1.0, options=dict(momentum=0.0))
  after, _ = step(make(**sgd, clip_norm=None), PARAMS, grads)
  np.testing.assert_allclose(moved(PARAMS, after)["b"], -100.0)
  after, _ = step(make(**sgd, clip_norm=1e4), PARAMS, ONES)
  np.testing.assert_allclose(moved(PARAMS, after)["b"], -1.0)


@pytest.mark.parametrize("name", ["adam", "adafactor", "lion", "sgd"])
def test_every_optimizer_lowers_a_quadratic(name):
  optimizer = make(name=name, lr=0.02)

  def loss(p):
    return sum(jnp.sum(x**2) for x in jax.tree.leaves(p))

  params, state, first = PARAMS, None, loss(PARAMS)
  for _ in range(30):
    params, state = step(optimizer, params, jax.grad(loss)(params), state)
  assert loss(params) < 0.95 * first
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))


def test_frozen_parameters_take_no_optimizer_memory():
  params = {"img": {"kernel": jnp.ones((64, 64))}, "b": jnp.ones(4)}
  optimizer = make(params, schedule=[("img/.*", None), *CONSTANT])
  assert optimizer.frozen == {"img/kernel"}
  assert optimizer.trainable == {"b"}
  state = optimizer.tx.init({"b": params["b"]})
  held = sum(x.nbytes for x in jax.tree.leaves(state))
  # Two moments of four floats, and two int32 counts.
  assert held == 2 * 4 * 4 + 2 * 4


def test_shapes_are_enough_to_make():
  shapes = jax.eval_shape(lambda: PARAMS)
  assert make(shapes).trainable == {"img/kernel", "txt/kernel", "b"}


def test_moments_take_the_dtype_asked_for():
  for name in ("adam", "lion"):
    optimizer = make(name=name, options=dict(mu_dtype="bfloat16"))
    leaves = jax.tree.leaves(optimizer.tx.init(PARAMS))
    assert sum(x.dtype == jnp.bfloat16 for x in leaves) == 3


def test_adafactor_factors_from_32_up_and_keeps_bfloat16_momentum():
  params = {"kernel": jnp.ones((32, 64)), "small": jnp.ones((31, 64))}
  optimizer = make(params, name="adafactor", wd_mults=((".*", 0.0),))
  leaves = jax.tree.leaves(optimizer.tx.init(params))
  f32 = sorted(x.shape for x in leaves if x.dtype == jnp.float32)
  assert {(32,), (64,), (31, 64)} <= set(f32)
  assert (32, 64) not in f32
  bf16 = sorted(x.shape for x in leaves if x.dtype == jnp.bfloat16)
  assert bf16 == [(31, 64), (32, 64)]


def test_adafactor_momentum_is_not_debiased():
  params = {"kernel": jnp.ones((32, 32))}
  optimizer = make(
      params,
      name="adafactor",
      lr=1.0,
      clip_norm=None,
      wd_mults=((".*", 0.0),),
  )
  after, _ = step(optimizer, params, jax.tree.map(jnp.ones_like, params))
  # u = 1 at the first step; bfloat16 holds 0.1 to three digits.
  np.testing.assert_allclose(after["kernel"], 1 - 0.1, atol=1e-3)


def test_adafactor_caps_beta2():
  params = {"small": jnp.ones(1)}
  optimizer = make(
      params,
      name="adafactor",
      lr=1.0,
      clip_norm=None,
      wd_mults=((".*", 0.0),),
      options=dict(momentum=None, b2_cap=0.25),
  )
  state = None
  for grad in (2.0, 2.0, 4.0):
    before = params
    params, state = step(
        optimizer, params, {"small": jnp.float32([grad])}, state
    )
  # With b2 at most 1/4 the last second moment is 4 / 4 + 3 * 16 / 4 = 13.
  np.testing.assert_allclose(
      moved(before, params)["small"], -4 / np.sqrt(13), rtol=1e-5
  )


def test_multipliers_scale_rate_and_decay_by_name():
  optimizer = make(
      name="sgd",
      lr=1.0,
      wd=0.5,
      clip_norm=None,
      options=dict(momentum=0.0),
      lr_mults=(("txt/.*", 0.1), (".*", 1.0)),
      wd_mults=(("img/.*", 2.0), (".*", 0.0)),
  )
  delta = moved(PARAMS, step(optimizer, PARAMS, ONES)[0])
  np.testing.assert_allclose(delta["txt"]["kernel"], -0.1, rtol=1e-5)
  np.testing.assert_allclose(delta["b"], -1.0)
  np.testing.assert_allclose(
      delta["img"]["kernel"], -1.0 - PARAMS["img"]["kernel"], atol=1e-6
  )


def test_each_rule_has_its_schedule_and_logged_rate():
  rules = [
      ("txt/.*", dict(decay="none", warmup_steps=10)),
      (".*", dict(decay="none")),
  ]
  optimizer = make(
      schedule=rules,
      name="sgd",
      lr=0.5,
      clip_norm=None,
      options=dict(momentum=0.0),
  )
  rates = optimizer.lr_at(5)
  assert {k: float(v) for k, v in rates.items()} == {"txt/.*": 0.25, ".*": 0.5}
  delta = moved(PARAMS, step(optimizer, PARAMS, ONES)[0])
  np.testing.assert_array_equal(delta["txt"]["kernel"], 0.0)
  np.testing.assert_allclose(delta["b"], -0.5)


def test_a_saved_state_resumes_the_schedule():
  rules = [(".*", dict(decay="linear", warmup_steps=2))]
  optimizer = make(schedule=rules, total_steps=6)
  params, state = PARAMS, None
  for _ in range(4):
    params, state = step(optimizer, params, ONES, state)
  saved = jax.device_get(state)
  fresh = make(schedule=rules, total_steps=6)
  one, _ = step(optimizer, params, ONES, state)
  two, _ = step(fresh, params, ONES, saved)
  jax.tree.map(np.testing.assert_array_equal, one, two)
  assert float(moved(params, one)["b"][0]) < 0


def test_cosine_at_its_landmarks():
  f = schedule(warmup_steps=20, final=0.1)
  early = 0.1 + 0.9 * (1 + np.cos(np.pi / 4)) / 2
  for at, value in [(0, 0), (20, 1), (40, early), (60, 0.55), (100, 0.1)]:
    np.testing.assert_allclose(f(at), value, atol=1e-6)


def test_linear_at_its_landmarks():
  f = schedule(decay="linear", warmup_percent=0.2, final=0.5)
  for at, value in [(0, 0), (20, 1), (60, 0.75), (100, 0.5), (120, 0.5)]:
    np.testing.assert_allclose(f(at), value, atol=1e-6)


def test_rsqrt_falls_after_warmup_and_cools_down():
  f = schedule(decay="rsqrt", timescale=16, warmup_steps=4, cooldown_steps=20)
  for at, value in [
      (0, 0),
      (2, 0.5),
      (4, 1),
      (20, np.sqrt(16 / 32)),
      (80, np.sqrt(16 / 92)),
      (90, 0.5 * np.sqrt(16 / 102)),
      (100, 0),
  ]:
    np.testing.assert_allclose(f(at), value, atol=1e-6)


@pytest.mark.parametrize("decay", ["cosine", "linear", "rsqrt", "none"])
def test_multipliers_stay_between_zero_and_one(decay):
  f = schedule(decay=decay, warmup_steps=7, cooldown_steps=11, timescale=10)
  values = jax.vmap(f)(jnp.arange(130))
  assert values.min() >= 0 and values.max() <= 1
  assert values[100] == 0


@pytest.mark.parametrize(
    "given, expected",
    [
        (dict(x_steps=30), 30),
        (dict(x_steps=30, x_percent=None), 30),
        (dict(x_examples=240), 30),
        (dict(x_percent=0.3), 30),
        (dict(x_epochs=1.5), 30),
    ],
)
def test_durations_in_every_unit(given, expected):
  assert schedules.steps("x", given, 100, 8, num_examples=160) == expected


@pytest.mark.parametrize(
    "given, message",
    [
        (dict(), "x must be given once.*x_epochs; got none"),
        (dict(x_steps=1, x_percent=0.1), "got x_steps and x_percent"),
        (dict(x_percent=10), r"x_percent must be in \[0, 1\]; got 10"),
        (dict(x_steps=-1), "x_steps must be at least 0; got -1"),
        (dict(x_steps=float("nan")), "got nan"),
        (dict(x_epochs=1), "needs the number of examples.*x_steps"),
    ],
)
def test_wrong_durations_are_named(given, message):
  with pytest.raises(UserError, match=message):
    schedules.steps("x", given, 100, 8)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(name="adm"), "optim.name.*got 'adm': did you mean 'adam'"),
        (dict(options=dict(beta1=1)), "options of adam has no 'beta1'"),
        (dict(options=dict(mu_dtyp="f4")), "did you mean 'mu_dtype'"),
        (dict(clip_norm=0), "clip_norm must be positive"),
        (dict(schedule=[(".*", None)]), "freezes everything"),
        (
            dict(schedule=[(".*", dict(warmup_step=3))]),
            re.escape("schedule of '.*' has no 'warmup_step';")
            + " did you mean 'warmup_steps'",
        ),
        (dict(schedule=[(".*", dict(decay="exp"))]), "got 'exp'"),
        (
            dict(schedule=[(".*", dict(warmup_steps=80, cooldown_steps=30))]),
            r"Warm-up \(80 steps\) and cooldown \(30\)",
        ),
        (
            dict(schedule=[("image/.*", None), *CONSTANT]),
            r"config\.optim\.schedule: .*'image/\.\*' decides none",
        ),
        (dict(lr_mults=[("img/.*", 1.0)]), r"config\.optim\.lr_mults.*'b'"),
        (dict(wd_mults=[("img/.*", 1.0)]), r"config\.optim\.wd_mults.*'b'"),
    ],
)
def test_mistakes_are_named(kwargs, message):
  with pytest.raises(UserError, match=message):
    make(**kwargs)
