"""The split of the emoji images into training and held-out sets.

These are pure functions of code points and thumbnails; `emoji.py` builds the
data set.

An emoji sequence is a *thing* (health worker, thumbs up) and a set of
*modifiers* (woman, dark skin tone, red hair, facing right). A hash of the
sequence decides its split, so splits do not change when emoji are added or
reordered.
"""

import collections
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import hashlib

from jaxtyping import UInt8
import numpy as np

STYLES = ("twemoji", "openmoji")

VARIATION_SELECTOR, ZWJ = 0xFE0F, 0x200D
_TONES = {
    0x1F3FB: "light",
    0x1F3FC: "medium-light",
    0x1F3FD: "medium",
    0x1F3FE: "medium-dark",
    0x1F3FF: "dark",
}
_HAIR = {0x1F9B0: "red", 0x1F9B1: "curly", 0x1F9B2: "bald", 0x1F9B3: "white"}
_SIGNS = {0x2642: "man", 0x2640: "woman"}
_FACING_RIGHT = 0x27A1
_ADULT, _CHILD, _FAMILY = 0x1F9D1, 0x1F9D2, 0x1F46A
# A gendered person is the neutral person plus a modifier.
_PEOPLE = {
    0x1F468: (_ADULT, "man"),
    0x1F469: (_ADULT, "woman"),
    0x1F466: (_CHILD, "boy"),
    0x1F467: (_CHILD, "girl"),
    0x1F474: (0x1F9D3, "man"),
    0x1F475: (0x1F9D3, "woman"),
}
# Couples have single-code-point forms; the long form names both people.
_LONG_FORM: dict[tuple[int, ...], tuple[tuple[int, ...], ...]] = {
    (0x1F46B,): ((0x1F469,), (0x1F91D,), (0x1F468,)),
    (0x1F46C,): ((0x1F468,), (0x1F91D,), (0x1F468,)),
    (0x1F46D,): ((0x1F469,), (0x1F91D,), (0x1F469,)),
}
_SHORT_FORM = {
    ((_ADULT,), (0x2764,), (_ADULT,)): ((0x1F491,),),
    ((_ADULT,), (0x2764,), (0x1F48B,), (_ADULT,)): ((0x1F48F,),),
    ((_ADULT,), (0x1F430,), (_ADULT,)): ((0x1F46F,),),
    ((_ADULT,), (0x1FAEF,), (_ADULT,)): ((0x1F93C,),),
    ((0x1FAF1,), (0x1FAF2,)): ((0x1F91D,),),
}

# Images whose thumbnails differ by less than this are duplicates; in gray
# levels, root mean square over the thumbnail. Over all pairs within each style,
# renderings of one drawing differ by at most 0.9, and the closest pair of
# different drawings by 1.1.
DUPLICATE_RMS = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Meaning:
  """The meaning of a sequence: a `thing` (an emoji id) and its `modifiers`."""

  thing: str
  modifiers: frozenset[str]


@dataclasses.dataclass(frozen=True, order=True)
class Drawing:
  """One drawing of one emoji."""

  id: str
  style: str


def emoji_id(codes: Iterable[int]) -> str:
  """Returns an id without variation selectors, as "1f469-200d-1f680"."""
  return "-".join(f"{c:x}" for c in codes if c != VARIATION_SELECTOR)


def meaning(id_: str) -> Meaning:
  """Splits an emoji sequence into its thing and its modifiers."""
  codes = [int(c, 16) for c in id_.split("-")]
  modifiers = {f"{_TONES[c]} skin" for c in codes if c in _TONES}
  parts = _split(tuple(c for c in codes if c not in _TONES), ZWJ)
  if len(parts) == 1:
    parts = _LONG_FORM.get(parts[0], parts)

  kept: list[tuple[int, ...]] = []
  members: collections.Counter[str] = collections.Counter()
  for part in parts:
    if len(part) == 1 and kept and part[0] in _SIGNS:
      modifiers.add(_SIGNS[part[0]])
    elif len(part) == 1 and kept and part[0] in _HAIR:
      modifiers.add(f"{_HAIR[part[0]]} hair")
    elif len(part) == 1 and kept and part[0] == _FACING_RIGHT:
      modifiers.add("facing right")
    elif len(part) == 1 and part[0] in _PEOPLE:
      person, member = _PEOPLE[part[0]]
      members[member] += 1
      kept.append((person,))
    else:
      kept.append(part)

  if len(kept) > 1 and all(p in ((_ADULT,), (_CHILD,)) for p in kept):
    members.update("adult" for p in parts if p == (_ADULT,))
    members.update("child" for p in parts if p == (_CHILD,))
    kept = [(_FAMILY,)]
  modifiers |= {m if n == 1 else f"{n} {m}" for m, n in members.items()}
  short = _SHORT_FORM.get(tuple(kept), tuple(kept))
  thing = emoji_id(c for p in _join(short, (ZWJ,)) for c in p)
  return Meaning(thing=thing, modifiers=frozenset(modifiers))


def duplicates(
    ids: Sequence[str], thumbnails: UInt8[np.ndarray, "N H W 3"]
) -> list[tuple[str, str]]:
  """Returns pairs of ids whose thumbnails show the same drawing."""
  x = thumbnails.reshape(len(ids), -1).astype(np.float64)
  norms = np.sum(x * x, axis=1)
  squared = norms[:, None] + norms[None] - 2 * x @ x.T
  same = squared < DUPLICATE_RMS**2 * x.shape[1]
  return [(ids[i], ids[j]) for i, j in np.argwhere(np.triu(same, 1)).tolist()]


def split_images(
    images: Iterable[Drawing], same: Iterable[tuple[str, str]]
) -> dict[str, list[Drawing]]:
  """Assigns images to splits.

  Args:
    images: all drawings.
    same: pairs of ids that have the same drawing in some style.

  Returns:
    Split -> drawings, for `train`, `other_drawing`, `unseen_combination` and
    `unseen_thing`. Other forms of held-out images are in no split.
  """
  images = sorted(images)
  same = list(same)
  ids = sorted({p.id for p in images})
  meanings = {i: meaning(i) for i in ids}
  styles = collections.defaultdict(set)
  for p in images:
    styles[p.id].add(p.style)

  thing_of = _representatives(
      (m.thing for m in meanings.values()),
      ((meanings[a].thing, meanings[b].thing) for a, b in same),
  )
  group = {i: thing_of[meanings[i].thing] for i in ids}
  unseen = {g for g in group.values() if _hash("thing", g) < 1 / 20}
  known = [i for i in ids if group[i] not in unseen]
  combinations = _held_out_combinations(known, meanings, same)

  # A style is held out only for things whose plain forms all have both styles.
  plain = [i for i in known if not meanings[i].modifiers]
  single = {group[i] for i in plain if len(styles[i]) < len(STYLES)}
  one_style = {
      g: STYLES[_hash("style", g) < 1 / 2]
      for g in {group[i] for i in plain} - single
      if _hash("drawing", g) < 1 / 6
  }

  splits: dict[str, list[Drawing]] = {
      "train": [],
      "other_drawing": [],
      "unseen_combination": [],
      "unseen_thing": [],
  }
  for p in images:
    is_plain = not meanings[p.id].modifiers
    seen_style = one_style.get(group[p.id], p.style) == p.style
    if group[p.id] in unseen:
      if is_plain:
        splits["unseen_thing"].append(p)
    elif not seen_style:
      if is_plain:
        splits["other_drawing"].append(p)
    elif p.id in combinations:
      splits["unseen_combination"].append(p)
    else:
      splits["train"].append(p)
  return splits


def _held_out_combinations(
    ids: Sequence[str],
    meanings: Mapping[str, Meaning],
    same: Iterable[tuple[str, str]],
) -> set[str]:
  """Returns a tenth of the modified sequences; their parts stay in training."""
  by_meaning: dict[Meaning, str] = {}
  pairs = [(i, by_meaning.setdefault(meanings[i], i)) for i in ids]
  known = set(ids)
  pairs += [(a, b) for a, b in same if a in known and b in known]
  group = _representatives(ids, pairs)
  members = collections.defaultdict(list)
  for i in ids:
    members[group[i]].append(i)
  held_out = set()
  for g, group_ids in members.items():
    modified = all(meanings[i].modifiers for i in group_ids)
    if modified and _hash("combination", g) < 1 / 10:
      held_out.update(group_ids)

  # Returning a group to training only makes more parts known, so one pass is
  # enough.
  train = [i for i in ids if i not in held_out]
  things = {meanings[i].thing for i in train}
  known_modifiers = {m for i in train for m in meanings[i].modifiers}
  for group_ids in members.values():
    if not all(
        meanings[i].thing in things and meanings[i].modifiers <= known_modifiers
        for i in group_ids
    ):
      held_out.difference_update(group_ids)
  return held_out


def _hash(salt: str, text: str) -> float:
  """Returns a number in [0, 1) that depends only on salt and text."""
  digest = hashlib.sha256(f"{salt}:{text}".encode()).digest()
  return int.from_bytes(digest[:8]) / 2**64


def _representatives(
    nodes: Iterable[str], pairs: Iterable[tuple[str, str]]
) -> dict[str, str]:
  """Returns node -> the smallest node connected to it."""
  parent = {n: n for n in nodes}

  def root(n: str) -> str:
    while parent[n] != n:
      n = parent[n]
    return n

  for a, b in pairs:
    low, high = sorted((root(a), root(b)))
    parent[high] = low
  return {n: root(n) for n in parent}


def _split(codes: tuple[int, ...], joiner: int) -> tuple[tuple[int, ...], ...]:
  """Splits a sequence at its joiners."""
  parts: list[tuple[int, ...]] = [()]
  for c in codes:
    parts = parts + [()] if c == joiner else parts[:-1] + [parts[-1] + (c,)]
  return tuple(parts)


def _join(parts: Iterable[tuple[int, ...]], joiner: tuple[int, ...]):
  """Yields the parts with the joiner between them."""
  for i, part in enumerate(parts):
    if i:
      yield joiner
    yield part
