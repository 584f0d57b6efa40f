"""Preprocessing strings: what they may say, and when operations run."""

import io
import pickle
import subprocess
import sys

import fakes
import numpy as np
from PIL import Image
import pytest

from siglip_jax.data import images
from siglip_jax.data import ops
from siglip_jax.data import preprocess
from siglip_jax.data import tokenizer
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.data.preprocess import meaning
from siglip_jax.data.preprocess import parse
from siglip_jax.errors import UserError


def run(spec, seed=0, **record):
  return Preprocess(spec)(record, np.random.default_rng(seed))


@pytest.mark.parametrize(
    "spec",
    [
        "__import__('os').mkdir('{path}')",
        "decode|resize(__import__('os').mkdir('{path}'))",
        "resize(size=open('{path}', 'w'))",
        "[open('{path}', 'w')]",
        "(lambda: open('{path}', 'w'))()",
        "resize(*[open('{path}', 'w')])",
        'resize(f\'{{open("{path}", "w")}}\')',
    ],
)
def test_nothing_in_a_string_is_executed(tmp_path, spec):
  path = tmp_path / "made"
  with pytest.raises(UserError):
    Preprocess(spec.format(path=path))
  assert not path.exists()


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "|",
        "a|",
        "a b",
        "decode; lower",
        "x = 1",
        "a.b()",
        "1|decode",
        "resize(**{})",
        "resize({[]: 1})",
        "resize(1, size=",
        "a(b=1, b=2)",
        "resize(" + "(" * 300,
        "resize(" + "-" * 100_000 + "1)",
        "decode|" * 20_000 + "decode",
    ],
)
def test_a_string_of_anything_but_operations_says_what_is_expected(spec):
  with pytest.raises(UserError, match="literal arguments") as e:
    parse(spec)
  assert len(str(e.value)) < 1000


@pytest.mark.parametrize(
    "spec, match",
    [
        ("decode|flip_rl", "'flip_rl'; did you mean flip_lr"),
        ("decode|qqq", "'qqq'; known: .*value_range"),
        ("__import__('os')", "Unknown preprocessing operation '__import__'"),
        (
            "resize",
            r"expected resize\(size, method='bilinear', \*, antialias=True\)",
        ),
        ("resize(1, 2, 3)", r"expected resize\(size"),
        ("flip_lr(p=1)", r"expected flip_lr\(\)"),
        ("value_range(1)", r"expected value_range\(low, high\)"),
        ("value_range('a', 1)", "two numbers, the lower first; got 'a', 1"),
        ("tokenize(max_len=3)", r"expected tokenize\(max_len, model"),
        ("value_range(0,1)|resize(3)", "last operation on images"),
        ("value_range(0,1)|value_range(0,1)", "got value_range after it"),
    ],
)
def test_bad_operations_are_named(spec, match):
  with pytest.raises(UserError, match=match):
    Preprocess(spec)


@pytest.mark.parametrize(
    "spec, match",
    [
        ("resize('big')", "resize cannot be applied"),
        ("resize(4, method='cubic')", "resize cannot be applied.*'cubic'"),
        ("choice('names/xx')", r"choice .*'names/xx'.*image \(ndarray\)"),
        ("decode", "decode cannot be applied"),
        ("central_crop(9)", "Put resize_small.9. before"),
        ("random_crop(9)", "Put resize_small.9. before"),
    ],
)
def test_what_cannot_be_applied_is_named_with_the_record(spec, match):
  with pytest.raises(UserError, match=match):
    run(spec, image=fakes.ramp(8, 8), text="x")


def test_a_bad_image_stays_an_image_error():
  with pytest.raises(images.ImageError):
    run("decode", image=b"x")


def test_the_range_is_for_the_device_and_texts_may_follow_it():
  pp = Preprocess('decode|value_range(0, 2.5)|copy("text","t")|lower|keep("t")')
  record = {"image": fakes.png((9, 8, 7)), "text": "A"}
  assert pp(record, np.random.default_rng(0)) == {"t": "A"}
  assert pp.value_range == (0.0, 2.5)
  assert record["text"] == "A" and isinstance(record["image"], bytes)
  assert Preprocess("decode").value_range is None
  assert Preprocess("decode").tokenizer is None


def test_texts_are_lowered_stripped_and_tokenized(tmp_path):
  model = tmp_path / "t.model"
  tokenizer.train(["a red cat"], model, vocab_size=300)
  spec = f'lower|strip_punctuation|tokenize(max_len=8, model="{model}")'
  pp = Preprocess(spec)
  expected = tokenizer.Tokenizer(model).encode("a red cat", max_len=8)
  got = pp({"text": "A (red) cat!"}, np.random.default_rng(0))["text"]
  np.testing.assert_array_equal(got, expected)
  assert pp.tokenizer.digest == tokenizer.Tokenizer(model).digest
  moved = Preprocess(spec.replace("t.model", "gone"), tokenizer_path=model)
  assert moved.tokenizer.digest == pp.tokenizer.digest
  copied = pickle.loads(pickle.dumps(pp))  # as for a worker process
  got = copied({"text": "a red cat"}, np.random.default_rng(0))["text"]
  np.testing.assert_array_equal(got, expected)
  with pytest.raises(UserError, match="There is no tokenizer .*gone"):
    Preprocess(spec.replace("t.model", "gone"))
  for options, match in (("max_len=0", "positive"), ("8, eos='x'", "sticky")):
    with pytest.raises(UserError, match=match):
      Preprocess(f'tokenize({options}, model="{model}")')


def test_bars_inside_quotes_separate_nothing():
  assert parse('a|b(1, c="x|y")') == [("a", [], {}), ("b", [1], {"c": "x|y"})]


def test_images_stay_bytes():
  got = run("decode|resize(4)|value_range(-1,1)", image=fakes.png((9, 8, 7)))
  assert got["image"].shape == (4, 4, 3) and got["image"].dtype == np.uint8
  np.testing.assert_array_equal(got["image"][0, 0], (9, 8, 7))


def test_an_operation_is_random_if_it_takes_a_generator(monkeypatch):
  def noise(record, rng, p=0.5):
    return record | {"image": rng.random(3) * p}

  def plain(record, p):
    return record | {"image": record["image"] + p}

  monkeypatch.setitem(ops.OPS, "noise", noise)
  monkeypatch.setitem(ops.OPS, "plain", plain)
  pp = Preprocess("plain(1)|noise(p=1)|plain(2)")
  begun = pp.begin({"image": 0})
  assert begun["image"] == 1  # up to the random one, the same every time
  one, two = (
      pp.finish(begun, np.random.default_rng(s))["image"] for s in (1, 2)
  )
  assert (one != two).all() and (one >= 2).all()
  with pytest.raises(UserError, match=r"expected plain\(p\)"):
    Preprocess("plain()")


def test_beginning_and_finishing_are_the_whole():
  pp = Preprocess("decode|resize(4)|affine()|color_jitter(0.5)|keep('image')")
  record = {"image": fakes.png((9, 8, 7), 8), "text": "a"}
  begun = pp.begin(record)
  assert begun["image"].shape == (4, 4, 3) and begun["text"] == "a"
  for seed in range(3):
    rng = np.random.default_rng(seed)
    np.testing.assert_array_equal(
        pp.finish(begun, rng)["image"],
        pp(record, np.random.default_rng(seed))["image"],
    )
  assert begun.keys() == {"image", "text"}
  assert Preprocess("decode").begin(record)["image"].shape == (8, 8, 3)
  assert Preprocess("choice('text')|decode").begin(record) == record


@pytest.fixture
def counted(monkeypatch):
  """A tokenizer whose ids of a text are its length; it notes its calls."""

  class Lengths(tokenizer.Tokenizer):
    vocab_size, calls = 100, []

    def __init__(self, path):
      del path

    def encode_all(self, texts, **options):
      self.calls.append(list(texts))
      return np.full(
          (len(texts), options["max_len"]), [[len(t)] for t in texts]
      )

    def encode(self, text, **options):
      return self.encode_all([text], **options)[0]

  monkeypatch.setattr(preprocess, "Tokenizer", Lengths)
  return Lengths.calls


def test_texts_of_many_records_are_tokenized_together(counted):
  spec = "color_jitter(0.5)|lower|tokenize(2, model='m')|keep('image', 'text')"
  pp = Preprocess(spec)
  image = fakes.ramp(4, 4)
  records = [{"image": image, "text": "A" * n, "more": n} for n in range(1, 5)]
  drawn = [
      pp.draw(pp.begin(r), np.random.default_rng(i))
      for i, r in enumerate(records)
  ]
  assert not counted and [d["text"] for d in drawn] == [
      "a",
      "aa",
      "aaa",
      "aaaa",
  ]
  found = pp.tokenize(drawn)
  assert counted == [["a", "aa", "aaa", "aaaa"]]
  assert drawn[0]["text"] == "a"  # is not modified
  for i, record in enumerate(records):
    expected = pp(record, np.random.default_rng(i))
    assert found[i].keys() == expected.keys() == {"image", "text"}
    for key in expected:
      np.testing.assert_array_equal(found[i][key], expected[key])


def test_begin_leaves_tokenizing_to_the_end(counted):
  pp = Preprocess("lower|tokenize(2, model='m')")
  begun = pp.begin({"text": "AB"})
  assert begun == {"text": "ab"} and not counted
  assert pp.finish(begun, np.random.default_rng(0))["text"].tolist() == [2, 2]


def test_random_operations_after_tokenizing_come_in_their_order(counted):
  pp = Preprocess(
      "tokenize(2, model='m')|choice('text', 'other', outkey='out')"
  )
  begun = pp.begin({"text": "abc", "other": "x"})
  drawn = pp.draw(begun, np.random.default_rng(0))
  assert counted == [["abc"]] and "out" in drawn
  assert pp.tokenize([drawn]) == [drawn]


def test_the_record_that_cannot_be_tokenized_is_the_error(counted):
  pp = Preprocess("tokenize(2, model='m')")
  with pytest.raises(UserError, match="tokenize cannot be applied to a list"):
    pp.tokenize([{"text": "a"}, {"text": ["b"]}])
  with pytest.raises(UserError, match="tokenize cannot be applied, KeyError"):
    pp.tokenize([{"text": "a"}, {"image": 0}])


@pytest.mark.parametrize(
    "spec, near, pillow",
    [
        ("decode|resize(8)", None, True),
        ("decode(near=9)|resize_small(8, 'area')|central_crop(8)", 9, True),
        ("decode|resize(8, 'area_cv2')", None, False),
        ("decode|resize(8, antialias=False)", None, False),
        ("decode(near=8)|flip_lr|resize(8)", 8, False),
        ("decode(near=8)|random_crop(4)", 8, False),
        # A quarter of the area has half the side.
        ("decode(near=8)|inception_crop(8, area_min=25)", 16, False),
        ("decode(8)|flip_lr|inception_crop(8, area_min=40)", 13, False),
        ("decode(near=8)|inception_crop(8)", 36, False),
        ("decode(near=8)|inception_crop(8, area_min=100)", 8, False),
        ("decode(near=8)|inception_crop(8, area_min=0)", None, False),
        ("decode|inception_crop(8)", None, False),
        ("decode(near=8)|resize(8)|inception_crop(4)", 8, True),
    ],
)
def test_decoding_knows_what_follows(spec, near, pillow, monkeypatch):
  decode, calls = images.decode, []

  def look(data, **options):
    calls.append({"pillow": False} | options)
    return decode(data, **options)

  monkeypatch.setattr(images, "decode", look)
  got = run(spec, 3, image=fakes.png((9, 8, 7), 12))["image"]
  assert isinstance(got, np.ndarray)
  assert (calls[0]["near"], calls[0]["pillow"]) == (near, pillow)


def test_random_parts_of_a_scaled_jpeg_keep_their_details():
  stripes = np.arange(256) // 4 % 2 * np.full((256, 256), 255)
  data = io.BytesIO()
  Image.fromarray(stripes.astype(np.uint8)).save(data, "jpeg")
  image = data.getvalue()
  # At an eighth of its size, which near=32 allows, the image is gray.
  assert run("decode(near=32)", image=image)["image"].std() < 10
  part = "decode(near=32)|inception_crop(32, area_min=6.25, area_max=7)"
  assert run(part, image=image)["image"].std() > 60


def test_preprocessing_needs_neither_jax_nor_tensorflow():
  code = (
      "import sys; from siglip_jax.data import preprocess, sources;"
      "print(sorted({'jax', 'tensorflow', 'torch'} & set(sys.modules)))"
  )
  done = subprocess.run(
      [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == "[]"


def test_strings_that_do_the_same_mean_the_same():
  assert meaning("resize(8)") == meaning("resize( 8, method='bilinear')")
  assert meaning("resize(8)") != meaning("resize(8, method='bicubic')")
  one, other = (f"tokenize(8, model='{m}')" for m in ("a", "b/c"))
  assert meaning(one) == meaning(other)
  assert meaning(one) != meaning(one.replace("8", "9"))
