"""Sections: keys, types and values, checked by the constructor itself."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import pytest

from siglip_jax.config import schema
from siglip_jax.errors import UserError


def make(
    run_passes,
    *,
    size: int,
    rate: float = 0.1,
    name: str | None = None,
    flag: bool = False,
    parts: Sequence = (),
    options: Mapping[str, Any] | None = None,
    mesh=None,
    **rest,
):
  del run_passes, size, rate, name, flag, parts, options, mesh, rest


@dataclasses.dataclass
class Tower:
  width: int
  parent: Any = None


@pytest.mark.parametrize(
    "section",
    [
        dict(size=3),
        dict(size=3, rate=2, name=None, flag=True, parts=[1], options={}),
        dict(size=3, rate=0.5, name="a", parts=(1, 2), options=None),
    ],
)
def test_keyword_arguments_of_their_types_pass(section):
  schema.check("s", section, make)


@pytest.mark.parametrize(
    "section, match",
    [
        (dict(), "s.size is missing"),
        (dict(size=1, run_passes=1), "s has no 'run_passes'; known are size"),
        (dict(size=1, rest=1), "s has no 'rest'"),
        (dict(size=1, mesh=1), "s has no 'mesh'"),
        (dict(sise=1), "s has no 'sise'; did you mean 'size'"),
        (dict(size=1.0), "s.size must be of type int; got 1.0"),
        (dict(size=True), "s.size must be of type int; got True"),
        (dict(size="1"), "s.size must be of type int; got '1'"),
        (dict(size=1, rate="1"), "s.rate must be of type float"),
        (dict(size=1, rate=float("nan")), "s.rate must be a finite number"),
        (dict(size=1, name=1), "s.name must be of type str or None; got 1"),
        (dict(size=1, flag=1), "s.flag must be of type bool"),
        (dict(size=1, parts="ab"), "s.parts must be of type Sequence"),
        (dict(size=1, options=[]), "s.options must be of type Mapping or None"),
    ],
)
def test_anything_else_is_named(section, match):
  with pytest.raises(UserError, match=match):
    schema.check("s", section, make, passed=["mesh"])


def test_a_section_can_be_for_several_and_incomplete():
  schema.check("s", dict(size=1, width=2), make, Tower, passed=["parent"])
  schema.check("s", {}, make, Tower, complete=False)
  with pytest.raises(UserError, match="has no 'parent'"):
    schema.check("s", dict(width=1, parent=2), Tower, passed=["parent"])
