"""big_vision's .npz: what is read, what is refused, what is written."""

from pathlib import Path
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest

from siglip_jax import tree
from siglip_jax.errors import UserError
from siglip_jax.weights import big_vision

TINY = "tests/fixtures/big_vision_tiny.npz"


def test_with_and_without_the_prefix(tmp_path):
  whole = tree.flatten(big_vision.read(TINY))
  saved = dict(np.load(TINY))
  assert {f"params/{n}" for n in whole} == saved.keys()
  bare = tmp_path / "bare.npz"
  np.savez(bare, **{n.removeprefix("params/"): x for n, x in saved.items()})
  again = tree.flatten(big_vision.read(str(bare)))
  for name, x in whole.items():
    np.testing.assert_array_equal(x, saved[f"params/{name}"])
    np.testing.assert_array_equal(again[name], x)


def test_what_is_written_is_what_was_read(tmp_path):
  path = tmp_path / "new" / "x.npz"
  big_vision.write(path, big_vision.read(TINY))
  assert [p.name for p in path.parent.iterdir()] == ["x.npz"]
  saved, again = dict(np.load(TINY)), dict(np.load(path))
  assert saved.keys() == again.keys()
  for name, x in saved.items():
    np.testing.assert_array_equal(again[name], x)
    assert again[name].dtype == x.dtype == np.float32


def test_the_optimisers_state_is_left_out(tmp_path):
  path = tmp_path / "x.npz"
  state = np.arange(3)  # integers, which no weights are
  np.savez(path, **{"params/t": np.ones(1, np.float32), "opt/0/count": state})
  assert tree.flatten(big_vision.read(path)).keys() == {"t"}


def test_half_precision_becomes_float32_exactly(tmp_path):
  values = np.array([1.5, -3.0, 2**-10], np.float32)
  path = tmp_path / "x.npz"
  # NumPy saves what it does not know as two bytes without a type.
  np.savez(
      path, a=values.astype(ml_dtypes.bfloat16), b=values.astype(np.float16)
  )
  for x in big_vision.read(path).values():
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, values)


def with_member(path, name, data):
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr(name, data)


def objects(path):
  np.savez(path, a=np.array([{"a": 1}], object))


def integers(path):
  np.savez(path, a=np.arange(3))


def clash(path):
  x = np.ones(1, np.float32)
  np.savez(path, **{"a": x, "a/b": x})


def pickled(path):
  path.write_bytes(pickle.dumps({"a": np.ones(3)}))


def single(path):
  with path.open("wb") as file:
    np.save(file, np.ones(3))


def cut(keep):
  def make(path):
    data = Path(TINY).read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])

  return make


def tampered(path):
  data = bytearray(Path(TINY).read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


def changed(place, value):
  """Of the first member's entry in the directory at the end, or of its data."""

  def make(path):
    np.savez(path, a=np.ones(3, np.float32))
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02") if place >= 0 else 0
    data[start + abs(place)] = value
    path.write_bytes(data)

  return make


def huge(path):
  header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d,), }\n"
  text = header % 10**12
  start = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little")
  with_member(path, "a.npy", start + text)


BAD = {
    "magic": (changed(-2, 9), "is not an .npz"),
    "version": (changed(6, 99), "damaged or incomplete: zip file version 9.9"),
    "encrypted": (changed(8, 1), "damaged or incomplete: .*encrypted"),
    "method": (changed(10, 77), "damaged or incomplete: .*not supported"),
    "huge": (huge, "damaged or incomplete: Unable to allocate"),
    "empty": (lambda p: p.write_bytes(b""), "is not an .npz"),
    "text": (lambda p: p.write_text("PS"), "is not an .npz"),
    "array": (single, "is not an .npz"),
    "pickle": (pickled, "Python pickle, which could run any code"),
    "torch": (
        lambda p: with_member(p, "archive/data.pkl", b"\x80\x02."),
        "archive/data.pkl is not an array. .*safetensors",
    ),
    "objects": (objects, "a is not a plain array"),
    "no arrays": (lambda p: zipfile.ZipFile(p, "w").close(), "holds no arrays"),
    "integers": (integers, "must be float32.* a is int64"),
    "clash": (clash, "a is an array and a layer"),
    "cut": (cut(0.5), "damaged or incomplete.*Copy it again"),
    "cut at the end": (cut(0.9999), "damaged or incomplete"),
    "tampered": (tampered, "damaged or incomplete: Bad CRC-32"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_named(tmp_path, kind):
  make, match = BAD[kind]
  path = tmp_path / "x.npz"
  make(path)
  with pytest.raises(UserError, match=match) as e:
    big_vision.read(path)
  # Once: what is told of sound arrays is not told again as damage.
  assert str(e.value).count(str(path)) == 1


def test_a_path_that_is_not_there_or_a_folder(tmp_path):
  with pytest.raises(UserError, match="There is no .*gone.npz: expected big"):
    big_vision.read(tmp_path / "gone.npz")
  with pytest.raises(UserError, match=f"{tmp_path} is a folder"):
    big_vision.read(tmp_path)
