"""The grammar of conditions: what may stand in one, and nothing else."""

import time

import pytest

from siglip_jax.data.tables import grammar
from siglip_jax.errors import UserError


def test_columns_are_found_by_name_sorted():
  _, columns = grammar.parse(
      'b.c > 1 and column("a b") in ("x",) and abs(d) > 1'
  )
  assert columns == ("a b", "b.c", "d")


@pytest.mark.parametrize(
    "text, match",
    [
        ("", "invalid syntax, at character 1"),
        ("width >", "invalid syntax"),
        ("a > 1 and b ** 2 > 3", "`b \\*\\* 2`: allowed .* at character 11"),
        ("é > 1 and b @ 2 > 3", "at character 11"),
        ("10**10**10 > a", "allowed are and, or"),
        ("'a' * 10 == b", "`'a'`: a number is needed, this is a text"),
        ("__import__('os').system('x')", "allowed are min, max"),
        ("a.b()", "allowed are min, max"),
        ("print(a) > 1", "allowed are min, max"),
        ("max(a, key=b) > 1", "allowed are min, max"),
        ("max(*a) > 1", "max takes 2 or more"),
        ("len(a, b) > 1", "len takes one argument"),
        ("column(a) > 1", "allowed are min, max"),
        ("(lambda: 1) > a", "allowed are"),
        ("[x for x in a]", "allowed are"),
        ("f'{a}' == 'x'", "allowed are"),
        ("a[0] > 1", "allowed are"),
        ("a if b else c", "allowed are"),
        ("(a := 3) > 2", "allowed are"),
        ("a > 3j", "allowed are"),
        ("a > 1e999", "allowed are"),
        (f"a > {2**64}", "allowed are"),
        ("a is None", "allowed are == !="),
        ("a == True", "write NAME or not NAME"),
        ("a > 'x' > 3", "a number is never equal to a text"),
        ("a in 'xy'", "needs a tuple of literals"),
        ("a in (b, 'x')", "needs a tuple of literals"),
        ("a in (1, 'x')", "needs a tuple of literals"),
        ("a in ()", "needs a tuple of literals"),
        ("a in (1,) in (2,)", "a tuple of literals must come last"),
        ("a + 1", "a truth is needed, this is a number"),
        ("not (a + 1)", "a truth is needed"),
        ("1 > 0", "it names no column"),
        ("a\0b", "null"),
        (7, "must be a text .* got int"),
        ("a > 1 " + "or a > 1 " * 500, "4506 characters"),
        ("not " * 900 + "a", "too deep|more than 50|recursion"),
        ("-" * 3900 + "a", "too deep|more than 50|recursion"),
        ("(" * 3900, "parentheses"),
        ("a > " + "1+" * 60 + "1", "more than 50 operations deep"),
        ("a > " + "(1+" * 60 + "1" + ")" * 60, "more than 50 operations deep"),
    ],
)
def test_all_else_is_refused_at_once(text, match):
  begin = time.process_time()
  with pytest.raises(UserError, match=match) as e:
    grammar.parse(text)
  assert time.process_time() - begin < 0.5
  assert len(str(e.value)) < 800


def test_a_long_list_of_conditions_is_not_deep():
  _, columns = grammar.parse(" or ".join(f"a == {i}" for i in range(300)))
  assert columns == ("a",)


def test_texts_may_hold_anything():
  tree, _ = grammar.parse(r"a in ('\d', 'x\'y', 'a and b')")
  assert grammar.literals(tree.comparators[0]) == [r"\d", "x'y", "a and b"]
