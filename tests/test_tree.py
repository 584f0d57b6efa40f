import pytest

from siglip_jax import tree
from siglip_jax.errors import UserError

PARAMS = {"img": {"head": {"kernel": 1, "bias": 2}}, "t": 3}
NAMES = ["img/head/bias", "img/head/kernel", "t"]


def assign(*rules, names=NAMES):
  return tree.assign(rules, names, what="config.x")


def test_flatten_names_leaves_in_sorted_order():
  flat = tree.flatten(PARAMS)
  assert list(flat.items()) == list(zip(NAMES, [2, 1, 3], strict=True))


def test_unflatten_inverts_flatten():
  assert tree.unflatten(tree.flatten(PARAMS)) == PARAMS


def test_select_and_merge_take_a_tree_apart_and_together():
  head = tree.select(PARAMS, NAMES[:2])
  assert head == {"img": PARAMS["img"]}
  one, two = tree.select(PARAMS, NAMES[::2]), tree.select(PARAMS, NAMES[1:2])
  assert one == {"img": {"head": {"bias": 2}}, "t": 3}
  assert tree.merge(one, two) == PARAMS


def test_merge_refuses_a_name_in_both():
  with pytest.raises(AssertionError, match="'t'"):
    tree.merge(PARAMS, {"t": 4})


def test_the_first_rule_to_match_wins():
  assert assign((".*/kernel", "a"), ("img/.*", "b"), (".*", "c")) == {
      "img/head/kernel": "a",
      "img/head/bias": "b",
      "t": "c",
  }


def test_rules_match_whole_names():
  with pytest.raises(UserError, match="'img/head/bias' matches none"):
    assign(("img", 1), (".*/kernel", 2), ("t", 3))


def test_a_name_without_a_rule_is_named_with_the_mend():
  with pytest.raises(UserError, match=r"config\.x: .*'t' matches none.*") as e:
    assign(("img/.*", 1))
  assert 'End the list with a rule for ".*".' in str(e.value)


def test_a_rule_that_matches_nothing_is_named():
  with pytest.raises(UserError, match=r"'imgs/\.\*'.*it matches none"):
    assign(("imgs/.*", 1), (".*", 2))


def test_a_rule_behind_a_wider_one_is_named():
  with pytest.raises(UserError, match=r"'t' decides none: earlier rules took"):
    assign((".*", 1), ("t", 2))


def test_rules_without_names_are_a_user_error():
  with pytest.raises(UserError, match="it matches none"):
    assign((".*", 1), names=[])


def test_an_invalid_regex_is_named():
  with pytest.raises(UserError, match=r"config\.x: '\(img' is not a regular"):
    assign(("(img", 1))


STACKED = [
    "b",
    "img/Transformer/encoderblock/LayerNorm_0/bias",
    "img/Transformer/encoderblock/MlpBlock_0/Dense_0/kernel",
    "img/embedding/kernel",
    "txt/Embed_0/embedding",
    "txt/Transformer/encoderblock/LayerNorm_0/bias",
]
UNROLLED = [n.replace("encoderblock/", "encoderblock_0/") for n in STACKED]


@pytest.mark.parametrize(
    "rule",
    [
        "img/Transformer/encoderblock_0/.*",
        "img/Transformer/encoderblock_[0-5]/.*",
        r".*/encoderblock_(1|2)/MlpBlock_0/.*",
    ],
)
def test_a_rule_for_one_block_is_told_that_blocks_are_stacked(rule):
  with pytest.raises(UserError, match="because config.model.scan=True") as e:
    assign((rule, None), (".*", 1), names=STACKED)
  assert "Names look like" in str(e.value)
  assert "/Transformer/encoderblock/" in str(e.value)
  assert assign(
      (rule, None),
      (".*", 1),
      names=UNROLLED + ["img/Transformer/" "encoderblock_1/MlpBlock_0/x"],
  )


def test_a_rule_for_stacked_blocks_is_told_that_they_are_not():
  with pytest.raises(UserError, match="scan=False.*'img/Transformer/encod"):
    assign(("img/Transformer/encoderblock/.*", 1), (".*", 2), names=UNROLLED)


@pytest.mark.parametrize(
    "rule, like",
    [
        ("img/Embedding/.*", "'img/embedding/kernel'"),
        ("text/Embed_0/.*", "'txt/Embed_0/embedding'"),
        ("x", "'img/Transformer/encoderblock/LayerNorm_0/bias', 'txt/Embed_0"),
    ],
)
def test_names_that_are_like_a_rule_are_shown(rule, like):
  with pytest.raises(UserError, match="it matches none. Fix or") as e:
    assign((rule, 1), (".*", 2), names=STACKED)
  assert like in str(e.value).partition("Names look like ")[2]
