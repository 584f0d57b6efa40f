"""Tokenizers: trained from captions, the same every time, exact lengths."""

import json
from pathlib import Path
import pickle
import shutil
import subprocess
import sys

import fakes
import numpy as np
import pytest
from sentencepiece import sentencepiece_model_pb2

from siglip_jax.data import tokenizer
from siglip_jax.errors import UserError

TEXTS = ["red square", "green circle", "Grüner Kreis", "赤い四角"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  path = tmp_path_factory.mktemp("tokenizer") / "new" / "folder" / "t.model"
  tokenizer.train(TEXTS, path, vocab_size=8000)
  return path


def test_a_small_corpus_gives_a_small_vocabulary(model):
  assert 259 < tokenizer.Tokenizer(model).vocab_size < 400
  assert [p.name for p in model.parent.iterdir()] == ["t.model"]


def test_order_and_case_of_the_texts_do_not_matter(model, tmp_path):
  again = tmp_path / "again.model"
  tokenizer.train(
      [t.upper() for t in TEXTS[::-1]] * 2 + ["", " "], again, vocab_size=8000
  )
  assert again.read_bytes() == model.read_bytes()


@pytest.mark.parametrize(
    "eos, short_end, long_end",
    [("sticky", [1, 9], True), ("yes", [1, 9], False), ("none", [9, 9], False)],
)
def test_ends_of_texts(model, eos, short_end, long_end):
  tok = tokenizer.Tokenizer(model)
  plain = tok.encode("red", max_len=90, eos="none", pad_value=9).tolist()
  n = plain.index(9)
  short = tok.encode("red", max_len=n + 2, eos=eos, pad_value=9)
  assert short.tolist() == plain[:n] + short_end
  long = tok.encode("red", max_len=n, eos=eos, pad_value=9)
  assert long.tolist() == plain[: n - 1] + [1 if long_end else plain[n - 1]]


@pytest.mark.parametrize("eos", ["sticky", "yes", "none"])
@pytest.mark.parametrize("space", ["plain", "marked"])
def test_many_texts_have_the_ids_of_each_alone(model, eos, space):
  tok = tokenizer.Tokenizer(model)
  texts = [*TEXTS, "", "  red\tred ", "a" * 50]
  options = {"max_len": 9, "eos": eos, "space": space, "pad_value": 3}
  ids = tok.encode_all(texts, **options)
  assert ids.shape == (len(texts), 9) and ids.dtype == np.int32
  np.testing.assert_array_equal(
      ids, [tok.encode(text, **options) for text in texts]
  )
  assert tok.encode_all([], **options).shape == (0, 9)


def test_many_texts_of_a_json_file_have_the_ids_of_each_alone():
  tok = tokenizer.Tokenizer("tests/fixtures/gemma_tokenizer.json")
  ids = tok.encode_all(["a b", "", "c"], max_len=5)
  alone = [tok.encode(text, max_len=5) for text in ("a b", "", "c")]
  np.testing.assert_array_equal(ids, alone)


def test_padding_is_the_end_of_sentence_by_default(model):
  ids = tokenizer.Tokenizer(model).encode("", max_len=3)
  assert ids.tolist() == [1, 1, 1] and ids.dtype == "int32"


def test_unknown_characters_become_bytes(model):
  ids = tokenizer.Tokenizer(model).encode("☃", max_len=9, eos="none")
  assert 2 not in ids  # the unknown piece
  assert ids.tolist() != (
      tokenizer.Tokenizer(model).encode("☂", max_len=9, eos="none").tolist()
  )


def test_how_a_text_ends_is_one_of_three_ways(model):
  with pytest.raises(UserError, match="sticky, yes or none; got 'no'"):
    tokenizer.Tokenizer(model).encode("red", max_len=3, eos="no")


def test_too_small_a_vocabulary_is_refused_and_leaves_nothing(tmp_path):
  path = tmp_path / "t.model"
  with pytest.raises(UserError, match="every character .* got 10. Give more"):
    tokenizer.train(TEXTS, path, vocab_size=10)
  with pytest.raises(UserError, match="needs texts"):
    tokenizer.train([" "], path, vocab_size=300)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keep", [0, 5, 1000])
def test_damaged_models_are_named(model, tmp_path, keep):
  path = tmp_path / "cut.model"
  path.write_bytes(model.read_bytes()[:keep])
  with pytest.raises(UserError, match="cut.model is not a SentencePiece model"):
    tokenizer.Tokenizer(path)
  with pytest.raises(UserError, match="There is no tokenizer .*gone.model"):
    tokenizer.Tokenizer(tmp_path / "gone.model")


def run(*args):
  return subprocess.run(
      [sys.executable, "-m", "siglip_jax.data.tokenizer", *args],
      capture_output=True,
      text=True,
      check=False,
  )


def test_the_command_line_trains_on_a_folder(tmp_path):
  folder = fakes.captioned_folder(tmp_path / "images", 30)
  out = tmp_path / "t.model"
  done = run(f"--path={folder}", f"--out={out}", "--vocab_size=300")
  assert done.returncode == 0, done.stderr
  size = tokenizer.Tokenizer(out).vocab_size
  assert f"{out}: {size} pieces" in done.stdout
  failed = run(f"--path={tmp_path}/none", f"--out={out}")
  assert failed.returncode == 2
  assert failed.stderr.startswith("error: There is no folder")
  assert "Traceback" not in failed.stderr


def test_marked_spaces_and_the_librarys_files(model, tmp_path):
  tok = tokenizer.Tokenizer(model)
  options = dict(max_len=9, eos="none", pad_value=9)
  marked = [
      tok.encode(t, space="marked", **options).tolist()
      for t in ("red", "  red", "red \n", "red\x1cgreen", "red green", "")
  ]
  plain = tok.encode("red", **options).tolist()
  assert marked[0] == plain == marked[1] == marked[2]
  assert marked[3] == marked[4]
  assert marked[5] == [9] * 9
  assert tok.encode("red\x1cgreen", **options).tolist() != marked[3]
  with pytest.raises(UserError, match="plain or marked; got 'x'"):
    tok.encode("red", max_len=3, space="x")
  file = tmp_path / "tokenizer.json"
  shutil.copyfile("tests/fixtures/gemma_tokenizer.json", file)
  gemma = tokenizer.Tokenizer(file)
  assert gemma.eos_id == 1 and gemma.vocab_size == 701
  ids = gemma.encode("a", max_len=4, pad_value=0).tolist()
  assert ids[1:] == [1, 0, 0] and ids[0] > 1
  with pytest.raises(UserError, match="for SentencePiece models alone"):
    gemma.encode("a", max_len=4, space="marked")
  again = pickle.loads(pickle.dumps(gemma))  # as for a worker process
  assert again.encode("a", max_len=4, pad_value=0).tolist() == ids
  content = json.loads(file.read_text())
  for change, match in (
      (
          {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}},
          "no end|none",
      ),
      ({"model": 3}, "or a damaged one"),
  ):
    file.write_text(json.dumps(content | {"added_tokens": []} | change))
    with pytest.raises(UserError, match=match):
      tokenizer.Tokenizer(file)
  file.write_text(json.dumps(content)[:200])
  with pytest.raises(UserError, match="or a damaged one"):
    tokenizer.Tokenizer(file)


def test_padding_and_cutting_of_the_file_itself_are_off(tmp_path):
  content = json.loads(
      Path("tests/fixtures/gemma_tokenizer.json").read_text(encoding="utf-8")
  )
  fill = dict(strategy={"Fixed": 9}, direction="Left", pad_to_multiple_of=None)
  fill |= dict(pad_id=0, pad_type_id=0, pad_token="<pad>")
  cut = dict(direction="Right", max_length=2, strategy="LongestFirst", stride=0)
  path = tmp_path / "tokenizer.json"
  path.write_text(json.dumps(content | dict(padding=fill, truncation=cut)))
  text, options = "a b c", dict(max_len=12, pad_value=0)
  np.testing.assert_array_equal(
      tokenizer.Tokenizer(path).encode(text, **options),
      tokenizer.Tokenizer("tests/fixtures/gemma_tokenizer.json").encode(
          text, **options
      ),
  )


def test_a_file_that_changes_while_it_is_used_is_not_kept(tmp_path):
  path = tmp_path / "t.model"
  path.write_bytes(Path("tests/fixtures/small.model").read_bytes())
  opened = tokenizer.Tokenizer(path)
  assert opened.read_bytes() == path.read_bytes()
  path.write_bytes(Path("tests/fixtures/spiece.model").read_bytes())
  with pytest.raises(UserError, match="t.model must not change while"):
    opened.read_bytes()


def test_a_missing_file_is_told_apart_from_a_damaged_one(tmp_path):
  with pytest.raises(tokenizer.TokenizerMissing, match="train one on captions"):
    tokenizer.Tokenizer(tmp_path / "gone.model")


def test_a_model_cut_off_between_two_pieces_is_damaged(tmp_path):
  proto = sentencepiece_model_pb2.ModelProto()
  proto.ParseFromString(Path("tests/fixtures/small.model").read_bytes())
  proto.ClearField("trainer_spec")
  proto.ClearField("normalizer_spec")
  path = tmp_path / "cut.model"
  path.write_bytes(proto.SerializeToString())
  with pytest.raises(UserError, match="or a damaged one: copy it again"):
    tokenizer.Tokenizer(path)


def test_a_text_that_spells_a_special_token_is_a_text():
  for name, words in (
      ("gemma.model", ["<eos>", "<pad>", "a<eos>b"]),
      ("gemma_tokenizer.json", ["<eos>", "<pad>", "a<eos>b"]),
      ("spiece.model", ["</s>", "<unk>"]),
  ):
    model = tokenizer.Tokenizer(f"tests/fixtures/{name}")
    for word in words:
      ids = model.encode(word, max_len=20, eos="none", pad_value=0).tolist()
      assert not {1} & set(ids), (name, word)
      assert len([i for i in ids if i]) > 2


def test_the_command_reads_any_data_without_images(command, tmp_path):
  out = f"--out={tmp_path / 't.model'}"

  def refused(*args):
    return command.run("siglip_jax.data.tokenizer", *args, out, status=2).err

  folder = fakes.captioned_folder(tmp_path / "images", 30)
  for image in list(folder.glob("*.png"))[1:]:
    image.write_bytes(b"")  # no image is opened
  done = command.run(
      "siglip_jax.data.tokenizer",
      f"--path={folder}",
      "--split=all",
      "--vocab_size=300",
      out,
      status=0,
  )
  assert "pieces from 30 captions" in done.out
  assert "must name the data; got none" in refused()
  assert "got --path=a and --name=b" in refused("--path=a", "--name=b")
  assert "no data set at none/b" in refused("--name=b", "--data_dir=none")
  assert "Records must have 'title'" in refused(
      f"--path={folder}", "--text=title"
  )
