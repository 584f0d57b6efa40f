"""Patterns stand for the names that a shell would make of them."""

import pytest

from siglip_jax.data.remote.braces import braces
from siglip_jax.errors import UserError


@pytest.mark.parametrize(
    "pattern, names",
    [
        ("a.tar", ["a.tar"]),
        ("{00008..00010}.tar", ["00008.tar", "00009.tar", "00010.tar"]),
        ("s{8..10}", ["s8", "s9", "s10"]),
        ("{train,test}/{0..1}", ["train/0", "train/1", "test/0", "test/1"]),
        ("x{a,b{1..2},}y", ["xay", "xb1y", "xb2y", "xy"]),
        ("{a,{b,c}d}", ["a", "bd", "cd"]),
        ("{7..7}*", ["7*"]),
    ],
)
def test_names_are_those_of_a_shell(pattern, names):
  assert braces(pattern) == names


@pytest.mark.parametrize(
    "pattern, reason",
    [
        ("{0..3", "a { is not closed"),
        ("0..3}", "a } has no { before it"),
        ("{3..0}", "{3..0} counts down"),
        ("{a}", "neither {first..last} nor {a,b}"),
        ("{}", "neither {first..last} nor {a,b}"),
        ("{0..}", "neither {first..last} nor {a,b}"),
    ],
)
def test_a_wrong_brace_is_an_error_that_says_so(pattern, reason):
  with pytest.raises(UserError) as error:
    braces(pattern)
  assert reason in str(error.value)
  assert repr(pattern) in str(error.value)


@pytest.mark.parametrize("pattern", ["{0..999999999999}", "{0..9}" * 30])
def test_a_pattern_for_very_many_names_is_refused_at_once(pattern, monkeypatch):
  monkeypatch.setattr("siglip_jax.data.remote.braces.MAX_NAMES", 1200)
  with pytest.raises(UserError, match="may stand for 1,200 names"):
    braces(pattern)
  assert len(braces("{0..1199}")) == 1200
