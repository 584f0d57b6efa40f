"""The mesh, and the rules that say where each array lives on it."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import optax
import pytest

from siglip_jax import sharding
from siglip_jax.errors import UserError


@pytest.mark.parametrize(
    "axes, shape",
    [
        (dict(), (8, 1, 1)),
        (dict(fsdp=4), (2, 4, 1)),
        (dict(data=2, fsdp=-1, tensor=2), (2, 2, 2)),
        (dict(data=1, fsdp=1, tensor=8), (1, 1, 8)),
    ],
)
def test_a_mesh_has_three_axes_of_which_one_takes_the_rest(axes, shape):
  mesh = sharding.make_mesh(**axes)
  assert tuple(mesh.shape.items()) == tuple(
      zip(("data", "fsdp", "tensor"), shape, strict=True)
  )
  assert mesh.devices.size == 8


@pytest.mark.parametrize(
    "axes, match",
    [
        (dict(fsdp=-1), "at most one of them -1"),
        (dict(tensor=0), "positive sizes"),
        (dict(fsdp=3), r"there are 8, got .*'data': 2, 'fsdp': 3.* = 6"),
        (dict(fsdp=16), "= 16"),
        (dict(data=4), "= 4"),
    ],
)
def test_a_mesh_that_leaves_devices_out_is_refused(axes, match):
  with pytest.raises(UserError, match=match):
    sharding.make_mesh(**axes)


def test_the_nearest_multiples_are_positive():
  assert sharding.nearest_multiples(20, 8) == "16 and 24"
  assert sharding.nearest_multiples(3, 8) == "8 and 16"


def test_functions_see_the_mesh_that_they_are_traced_on():
  mesh = sharding.make_mesh(data=4, tensor=2)

  def look(x):
    return x * jax.sharding.get_abstract_mesh().shape["tensor"]

  traced = jax.jit(sharding.on_mesh(mesh, look))
  assert traced(jnp.float32(3)) == 6
  assert jax.sharding.get_abstract_mesh().empty


def array(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def specs(tree):
  return jax.tree.map(lambda s: s.spec, tree)


def test_fsdp_cuts_the_largest_axis_that_divides():
  mesh = sharding.make_mesh(fsdp=4)
  shapes = {
      "wide": array(128, 256),
      "tall": array(256, 128),
      "odd": array(256, 129, 1027),  # only the first divides
      "small": array(127, 128),  # under MIN_FSDP_SIZE
      "none": array(513, 129),
  }
  assert specs(sharding.param_shardings(mesh, [(".*", "fsdp")], shapes)) == {
      "wide": P(None, "fsdp"),
      "tall": P("fsdp", None),
      "odd": P("fsdp", None, None),
      "small": P(),
      "none": P(),
  }


def test_the_first_rule_that_matches_counts_from_the_last_axis():
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  kernel = array(64, 8, 32)
  shapes = {
      "query": {"kernel": kernel, "bias": array(8, 32)},
      "scanned": {"query": {"kernel": array(3, 64, 8, 32)}},
      "out": {"kernel": kernel},
  }
  rules = [
      (".*query/kernel", ("fsdp", "tensor", None)),
      ("out/.*", "replicate"),
      (".*", (None,)),
  ]
  assert specs(sharding.param_shardings(mesh, rules, shapes)) == {
      "query": {"kernel": P("fsdp", "tensor", None), "bias": P(None, None)},
      "scanned": {"query": {"kernel": P(None, "fsdp", "tensor", None)}},
      "out": {"kernel": P()},
  }


@pytest.mark.parametrize(
    "how, match",
    [
        ("fdsp", "got 'fdsp' for a/b of shape .6, 8"),
        (("data", None, None), "one mesh axis or None per array axis"),
        (("fsdp", None), r"a/b of shape \(6, 8\) cannot be cut as"),
        ((None, "model"), "the mesh has .*'tensor': 1"),
    ],
)
def test_a_rule_that_does_not_fit_is_named(how, match):
  mesh = sharding.make_mesh(fsdp=4)
  with pytest.raises(UserError, match=match):
    sharding.param_shardings(mesh, [(".*", how)], {"a": {"b": array(6, 8)}})


def test_moments_live_where_their_parameters_do():
  mesh = sharding.make_mesh(fsdp=4)
  shapes = {"img": {"kernel": array(256, 128)}, "b": array(1)}
  placed = jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      shapes,
      sharding.param_shardings(mesh, [(".*", "fsdp")], shapes),
  )
  adam = jax.eval_shape(optax.scale_by_adam().init, placed)
  found = sharding.state_shardings(mesh, placed, adam)
  cut = {"img": {"kernel": P("fsdp", None)}, "b": P()}
  assert specs(found.mu) == specs(found.nu) == cut
  assert found.count.spec == P()
  factored = {"v_row": {"img": {"kernel": array(256)}, "b": array(1)}}
  assert specs(sharding.state_shardings(mesh, placed, factored)) == {
      "v_row": {"img": {"kernel": P()}, "b": P()}
  }
