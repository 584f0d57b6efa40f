import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from siglip_jax import optim
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


def test_until_a_delay_is_over_not_a_bit_changes_whatever_the_gradient():
  rules = [("img/.*", dict(decay="none", delay_steps=2, warmup_steps=2))]
  optimizer = make(lr=0.5, wd=0.1, schedule=[*rules, *CONSTANT])
  params = PARAMS | {"img": {"kernel": jnp.float32([[0.0, -0.0], [1.0, -2.0]])}}
  grads = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params)
  grads |= {k: ONES[k] for k in ("txt", "b")}
  start, state = np.asarray(params["img"]["kernel"]), None
  for _ in range(3):  # of the warm-up, the first multiplier is 0, too
    params, state = step(optimizer, params, grads, state)
    now = np.asarray(params["img"]["kernel"])
    assert now.tobytes() == start.tobytes()
    assert np.isfinite(params["txt"]["kernel"]).all()  # clipped by its norm
    if int(state[0].count) == 2:
      grads = jax.tree.map(lambda x: -jnp.ones_like(x), params)
  params, _ = step(optimizer, params, grads, state)
  assert np.all(np.asarray(params["img"]["kernel"]) != start)


def test_a_gradient_held_back_takes_no_part_in_clipping():
  rules = [("img/.*", dict(decay="none", delay_steps=1)), *CONSTANT]
  sgd = dict(name="sgd", lr=1.0, clip_norm=0.5, options=dict(momentum=0.0))
  after, _ = step(make(**sgd, schedule=rules), PARAMS, ONES)
  delta = moved(PARAMS, after)
  # Nine ones of the text tower and the bias have norm 3.
  np.testing.assert_allclose(delta["b"], -1 / 6, rtol=1e-5)
  np.testing.assert_array_equal(delta["img"]["kernel"], 0.0)


def test_pretrained_weights_need_not_decay():
  zeros = jax.tree.map(jnp.zeros_like, PARAMS)
  wd_mults = (("img/.*", 0.0), (".*/kernel", 1.0), (".*", 0.0))
  after, _ = step(make(wd=0.1, wd_mults=wd_mults), PARAMS, zeros)
  np.testing.assert_array_equal(after["img"]["kernel"], PARAMS["img"]["kernel"])
  np.testing.assert_allclose(
      after["txt"]["kernel"], 0.9 * PARAMS["txt"]["kernel"], rtol=1e-6
  )


def test_frozen_parameters_are_stored_as_asked():
  rules = [("img/.*", None), *CONSTANT]
  stored = make(schedule=rules, frozen_dtype="bfloat16").store(PARAMS)
  assert stored["img"]["kernel"].dtype == jnp.bfloat16
  assert stored["txt"]["kernel"].dtype == jnp.float32
  with pytest.raises(UserError, match="frozen_dtype must be .*got 'float8'"):
    make(schedule=rules, frozen_dtype="float8")


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


@pytest.mark.parametrize("limit", [1e-3, 1.0, 7.0, 50.0, 100.0, 101.0, 3e3])
def test_the_temperature_stops_at_its_limit_and_no_lower(limit):
  optimizer = make(max_temperature=limit)
  below = np.float32(np.log(limit) - 0.5)
  limited = optimizer.limit({"t": jnp.float32([9.0]), "b": jnp.float32([9.0])})
  assert float(limited["b"][0]) == 9.0
  t = np.float64(limited["t"][0])
  # Not above it, and nothing in float32 lies between.
  assert t <= np.log(limit) < np.nextafter(np.float32(t), np.float32(99))
  kept = optimizer.limit({"t": jnp.float32([below])})
  assert np.float32(kept["t"][0]) == below


def test_without_a_limit_or_a_trained_temperature_nothing_is_touched():
  params = {"t": jnp.float32([9.0])}
  assert make().limit(params) is params
  assert make(max_temperature=2.0).limit(PARAMS) is PARAMS


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(name="adm"), "optim.name.*got 'adm': did you mean 'adam'"),
        (dict(options=dict(beta1=1)), "options of adam has no 'beta1'"),
        (dict(options=dict(mu_dtyp="f4")), "did you mean 'mu_dtype'"),
        (dict(clip_norm=0), "clip_norm must be positive"),
        (dict(clip_norm=float("inf")), "clip_norm must be positive"),
        (dict(max_temperature=0.0), "max_temperature must be positive"),
        (dict(max_temperature=-1), "max_temperature must be positive"),
        (dict(lr=-0.1), "optim.lr must be a number from 0 up; got -0.1"),
        (dict(lr=float("nan")), "optim.lr must be a number from 0 up"),
        (dict(wd=-0.1), "optim.wd must be a number from 0 up"),
        (dict(wd=float("inf")), "optim.wd must be a number from 0 up"),
        (dict(lr_mults=[(".*", "2")]), r"lr_mults of '\.\*' must be a number"),
        (dict(lr_mults=[(".*", -2)]), "lr_mults .* from 0 up; got -2"),
        (dict(wd_mults=[(".*", None)]), "wd_mults .* from 0 up; got None"),
        (dict(wd_mults=[(".*", True)]), "wd_mults .* from 0 up; got True"),
        (dict(options=dict(b2=1.0)), r"adam: b2 must be in \[0, 1\); got 1.0"),
        (dict(options=dict(b1=-0.1)), r"adam: b1 must be in \[0, 1\)"),
        (dict(options=dict(eps=0.0)), "adam: eps must be positive"),
        (
            dict(name="lion", options=dict(mu_dtype="float16")),
            "lion: mu_dtype must be float32 or bfloat16; got 'float16'",
        ),
        (
            dict(name="sgd", options=dict(momentum=1.5)),
            r"sgd: momentum must be in \[0, 1\)",
        ),
        (dict(schedule=[(".*", 3)]), "must be arguments such as .*; got 3"),
        (dict(schedule=[(".*", "none")]), "must be arguments .*got 'none'"),
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
