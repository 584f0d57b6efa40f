"""Sources, pictures, preprocessing, tokenizer, batches."""

import io
import json

import fakes
import numpy as np
from PIL import Image
import pytest

from siglip_jax.data import images
from siglip_jax.data import pipeline
from siglip_jax.data import sources
from siglip_jax.data import tokenizer
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.data.preprocess import parse
from siglip_jax.errors import UserError

RNG = np.random.default_rng(0)


def encoded(image, fmt="png", **options):
  out = io.BytesIO()
  image.save(out, format=fmt, **options)
  return out.getvalue()


def test_every_kind_of_picture_comes_out_as_rgb():
  red = Image.new("RGB", (8, 6), (255, 0, 0))
  clear = Image.new("RGBA", (8, 6), (255, 0, 0, 0))
  palette = Image.new("P", (8, 6), 1)
  palette.putpalette([0, 0, 0, 255, 0, 0])
  grey16 = Image.fromarray(np.full((6, 8), 65535, np.uint16))
  cases = {
      "rgb": (encoded(red), (255, 0, 0)),
      "alpha": (encoded(clear), (255, 255, 255)),
      "palette": (encoded(palette), (255, 0, 0)),
      "palette alpha": (encoded(palette, transparency=1), (255, 255, 255)),
      "grey": (encoded(Image.new("L", (8, 6), 99)), (99, 99, 99)),
      "16 bit": (encoded(grey16), (255, 255, 255)),
      "cmyk": (
          encoded(Image.new("CMYK", (8, 6), (0, 255, 255, 0)), "jpeg"),
          (254, 0, 0),
      ),
  }
  for name, (data, color) in cases.items():
    pixels = images.decode(data)
    assert pixels.shape == (6, 8, 3) and pixels.dtype == np.uint8, name
    np.testing.assert_allclose(pixels[3, 3], color, atol=2, err_msg=name)


def test_exif_rotation_is_undone():
  exif = Image.Exif()
  exif[0x0112] = 6  # stored on its side
  data = encoded(Image.new("RGB", (8, 6)), "jpeg", exif=exif)
  assert images.decode(data).shape == (8, 6, 3)


@pytest.mark.parametrize(
    "data", [b"", b"not a picture", fakes.png((1, 2, 3))[:60]]
)
def test_what_is_no_picture_is_an_image_error(data):
  with pytest.raises(images.ImageError):
    images.decode(data)


def test_a_decompression_bomb_is_refused_before_decoding():
  bomb = encoded(Image.new("1", (20_000, 20_000)))
  with pytest.raises(images.ImageError, match="over the limit|Bomb"):
    images.decode(bomb)


def test_strings_are_parsed_and_never_executed():
  assert parse('a|b(1, c="x|y")') == [("a", [], {}), ("b", [1], {"c": "x|y"})]
  for bad in (
      "decode|__import__('os').system('x')",
      "resize(open('x'))",
      "a||b",
  ):
    with pytest.raises(UserError, match="literal"):
      parse(bad)
  with pytest.raises(UserError, match="did you mean resize"):
    Preprocess("decode|resiz(3)")
  with pytest.raises(UserError, match=r"expected resize\(size"):
    Preprocess("resize()")


def test_pictures_stay_bytes_and_the_range_is_for_the_device():
  pp = Preprocess("decode|resize(4)|value_range(-1,1)")
  out = pp({"image": fakes.png((9, 8, 7))}, RNG)["image"]
  assert out.shape == (4, 4, 3) and out.dtype == np.uint8
  assert pp.value_range == (-1.0, 1.0)
  np.testing.assert_array_equal(out[0, 0], (9, 8, 7))


def test_random_operations_follow_the_generator_alone():
  spec = (
      "decode_rgba|background()|affine()|color_jitter(0.3,0.3,0.3)|blur()"
      "|grayscale()|inception_crop(8)|flip_lr"
  )
  pp, picture = Preprocess(spec), np.random.default_rng(1)
  data = encoded(
      Image.fromarray(picture.integers(0, 255, (12, 12, 4), np.uint8))
  )
  draw = lambda seed: pp({"image": data}, np.random.default_rng(seed))["image"]
  np.testing.assert_array_equal(draw(3), draw(3))
  assert not np.array_equal(draw(3), draw(4))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  path = tmp_path_factory.mktemp("tok") / "tokenizer.model"
  tokenizer.train(["red square", "green circle"] * 5, path, vocab_size=300)
  return path


def test_sticky_end_of_sentence(model):
  tok = tokenizer.Tokenizer(model)
  short = tok.encode("red", max_len=8)
  long = tok.encode("red square " * 9, max_len=8)
  assert short[-1] == long[-1] == tokenizer.EOS_ID
  assert short[0] != tokenizer.EOS_ID and len(short) == len(long) == 8
  assert tok.encode("red square " * 9, max_len=8, eos="none")[-1] != 1


def test_tokenizers_are_known_by_their_digest(model, tmp_path):
  again = tmp_path / "again.model"
  tokenizer.train(["green circle", "red square"] * 2, again, vocab_size=300)
  assert tokenizer.Tokenizer(again).digest == tokenizer.Tokenizer(model).digest
  again.write_bytes(b"nonsense")
  with pytest.raises(UserError, match="no SentencePiece model"):
    tokenizer.Tokenizer(again)
  with pytest.raises(UserError, match="There is no tokenizer"):
    tokenizer.Tokenizer(tmp_path / "none.model")


def test_folders_with_txt_and_with_jsonl_hold_the_same(tmp_path):
  a = fakes.captioned_folder(tmp_path / "a", 5)
  source = sources.make(path=str(a), split="all")
  assert len(source) == 5 and source[1]["text"] == "a green picture number 1"
  lines = [
      json.dumps({"image": f"{i:03d}.png", "text": source[i]["text"]})
      for i in range(5)
  ]
  (a / "captions.jsonl").write_text("\n".join(lines))
  again = sources.make(path=str(a), split="all")
  assert [again[i] for i in range(5)] == [source[i] for i in range(5)]


def test_folder_splits_are_disjoint_and_whole(tmp_path):
  folder = str(fakes.captioned_folder(tmp_path, 48))
  parts = {
      split: {source.key(i) for i in range(len(source))}
      for split in ("all", "train", "validation")
      for source in [sources.make(path=folder, split=split)]
  }
  assert parts["train"] | parts["validation"] == parts["all"]
  assert not parts["train"] & parts["validation"]


def test_bad_folders_say_what_is_wrong(tmp_path):
  def error(match):
    with pytest.raises(UserError, match=match):
      sources.make(path=str(tmp_path), split="all")

  error("is empty")
  (tmp_path / "a.png").write_bytes(fakes.png((0, 0, 0)))
  error("expected a.txt beside it")
  (tmp_path / "a.txt").write_bytes(b"caf\xe9")
  error("UTF-8; .*a.txt is not, at byte 3")
  jsonl = tmp_path / "captions.jsonl"
  jsonl.write_bytes(b'{"image": "a.png", "text": "caf\xe9"}')
  error("line 1 is not, at byte")
  jsonl.write_text('{"image": "a.png"}')
  error("line 1 must be")
  jsonl.write_text('{"image": "../a.png", "text": "x"}')
  error("outside the folder")
  with pytest.raises(UserError, match="no folder"):
    sources.make(path=str(tmp_path / "none"), split="all")
  with pytest.raises(UserError, match="either `name`"):
    sources.make(split="all")
  with pytest.raises(UserError, match="siglip_jax.data.emoji"):
    sources.make(name="emoji", split="train", data_dir=tmp_path)


def numbered(n=13):
  return fakes.ListSource(
      [{"image": fakes.png((i, 0, 0), 4), "text": str(i)} for i in range(n)]
  )


def batches(source=None, **options):
  pp = Preprocess('decode|affine()|keep("image")')
  options = dict(batch_size=4, seed=0, total_steps=9) | options
  return list(pipeline.train_iterator(source or numbered(), pp, **options))


def test_batches_are_a_function_of_seed_and_step():
  whole = batches()
  assert len(whole) == 9
  for a, b in zip(whole[5:], batches(start_step=5, num_threads=1), strict=True):
    np.testing.assert_array_equal(a["image"], b["image"])
  assert not np.array_equal(whole[0]["image"], batches(seed=1)[0]["image"])
  for count in (2, 4):
    parts = [
        batches(process_index=i, process_count=count) for i in range(count)
    ]
    for step, batch in enumerate(whole):
      joined = np.concatenate([p[step]["image"] for p in parts])
      np.testing.assert_array_equal(batch["image"], joined)


def test_an_epoch_shows_everything_once_and_the_next_in_another_order():
  pp = Preprocess('decode|keep("image")')
  options = dict(batch_size=13, seed=0, total_steps=2)
  seen = [
      b["image"][:, 0, 0, 0].tolist()
      for b in pipeline.train_iterator(numbered(), pp, **options)
  ]
  assert sorted(seen[0]) == sorted(seen[1]) == list(range(13))
  assert seen[0] != seen[1]


def test_unreadable_pictures_are_replaced_and_named():
  records = [{"image": fakes.png((i, 0, 0), 4)} for i in range(8)]
  records[5]["image"] = b"broken"
  replaced = np.concatenate(
      [b["replaced"] for b in batches(fakes.ListSource(records))]
  )
  assert set(replaced) == {-1, 5}
  with pytest.raises(UserError, match="in a row could not be read"):
    batches(fakes.ListSource([{"image": b"broken"}] * 3))


def test_evaluation_sees_each_picture_once_and_marks_padding():
  pp = Preprocess("decode")
  found = [
      list(
          pipeline.eval_batches(
              numbered(), pp, batch_size=8, process_index=i, process_count=2
          )
      )
      for i in range(2)
  ]
  seen = [
      b["image"][:, 0, 0, 0][b["mask"]]
      for step in zip(*found, strict=True)
      for b in step
  ]
  np.testing.assert_array_equal(np.concatenate(seen), np.arange(13))
  with pytest.raises(UserError, match="Evaluation needs all"):
    broken = fakes.ListSource([{"image": b"x"}])
    list(pipeline.eval_batches(broken, pp, batch_size=4))
