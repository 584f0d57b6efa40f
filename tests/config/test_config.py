"""`parse_arg`: what stands behind the colon of --config."""

import ml_collections
import pytest

from siglip_jax.config import at_most_one
from siglip_jax.config import one_of
from siglip_jax.config import parse_arg
from siglip_jax.errors import UserError

DEFAULTS = dict(steps=10, lr=0.5, name="a", cached=False, sizes=(1, 2))


@pytest.mark.parametrize(
    "arg, changes",
    [
        (None, {}),
        ("", {}),
        ("steps=-3", dict(steps=-3)),
        ("lr=1e-3,name=b", dict(lr=1e-3, name="b")),
        ("lr=2", dict(lr=2.0)),
        ("cached", dict(cached=True)),
        ("cached=False", dict(cached=False)),
        ("name=", dict(name="")),
        ("name=3", dict(name="3")),
        ("name=a=b", dict(name="a=b")),
        (",steps=1,,steps=2,", dict(steps=2)),
        ("steps=1, name=b, cached", dict(steps=1, name="b", cached=True)),
        ("sizes=(3, 4, 5),steps=1", dict(sizes=(3, 4, 5), steps=1)),
        ("name=my, photos ,steps=1", dict(name="my, photos ", steps=1)),
        ("name=a,b/c", dict(name="a,b/c")),
        ("name=a,b", dict(name="a,b")),
        ("name=a,,b,", dict(name="a,,b")),
        ("name=a,", dict(name="a")),
        ("name=x-{00..12},y-{a,b}.tar", dict(name="x-{00..12},y-{a,b}.tar")),
        ("name=a=b,c d", dict(name="a=b,c d")),
        (r"name=C:\my,2\x,steps=1", dict(name=r"C:\my,2\x", steps=1)),
        ('name="a,steps=9",steps=1', dict(name="a,steps=9", steps=1)),
        ("name='a, b=c,',cached", dict(name="a, b=c,", cached=True)),
        ('name="it\'s"', dict(name="it's")),
        ('name="a"b",steps=1', dict(name='a"b', steps=1)),
        ('name=""', dict(name="")),
        ('name=say "a",steps=1', dict(name='say "a"', steps=1)),
        ('name=",steps=1', dict(name='"', steps=1)),
        ('sizes="(3, 4)"', dict(sizes=(3, 4))),
    ],
)
def test_values_take_the_type_of_their_default(arg, changes):
  found = parse_arg(arg, **DEFAULTS)
  assert isinstance(found, ml_collections.ConfigDict)
  assert found.to_dict() == DEFAULTS | changes
  for key, value in found.to_dict().items():
    assert type(value) is type(DEFAULTS[key]), key


@pytest.mark.parametrize(
    "arg, match",
    [
        ("step=1", "Unknown config argument 'step'; did you mean 'steps'"),
        ("x=1", "Unknown config argument 'x'; known are steps, lr, name"),
        ("b/c", "Unknown config argument 'b/c'; known are"),
        ("steps=3,b/c", "Unknown config argument 'b/c'"),
        ("cached,b/c", "Unknown config argument 'b/c'"),
        ('name="a",b', "Unknown config argument 'b'"),
        (
            "name=a,stpes=3",
            r"argument 'stpes'; did you mean 'steps'\? If it belongs to name,"
            ' put its value in quotes: name="..."',
        ),
        ("name=a,data-dir=x", "Unknown config argument 'data-dir'"),
        ("name=a,optim.lr=1", "Unknown config argument 'optim.lr'"),
        ("name=a,steps", "steps must be of type int, such as 10; got ''"),
        ("steps=1.5", "steps must be of type int, such as 10; got '1.5'"),
        ("steps=many", "steps must be of type int, such as 10; got 'many'"),
        ("steps", "steps must be of type int, such as 10; got ''"),
        ("steps=True", "steps must be of type int, such as 10; got 'True'"),
        ("lr=fast", "lr must be of type float, such as 0.5; got 'fast'"),
        ("cached=1", "cached must be of type bool, such as False; got '1'"),
        (
            "sizes=[3]",
            r"sizes must be of type tuple, such as \(1, 2\); got '\[3\]'",
        ),
    ],
)
def test_other_names_and_types_are_refused(arg, match):
  with pytest.raises(UserError, match=match):
    parse_arg(arg, **DEFAULTS)


def test_code_is_not_run():
  with pytest.raises(UserError, match="got ['\"]__import__"):
    parse_arg("steps=__import__('os').getpid()", steps=3)


def test_one_of_several_values_stands_for_something():
  known = {"none": (), "image": ("img/.*",)}
  assert one_of("lock", "image", known) == ("img/.*",)
  with pytest.raises(UserError, match="lock must be one of none, image; got"):
    one_of("lock", "text", known)


def test_at_most_one_of_several_arguments_is_set():
  arg = parse_arg("path=a", path="", name="", data="d")
  at_most_one(arg, "path", "name")
  with pytest.raises(
      UserError, match="of path=, data= may .* path=a and data=d"
  ):
    at_most_one(arg, "path", "data")
