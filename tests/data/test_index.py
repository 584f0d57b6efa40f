"""The command that makes an index: a table of what was found and left out."""

import hand_tars
from hand_tars import member
import pytest
import web_files

from siglip_jax.data.tars.opening import tar_source


@pytest.fixture
def tars(tmp_path):
  """Three shards: whole, with oddities, and cut off."""
  (tmp_path / "0.tar").write_bytes(hand_tars.tar(*range(40)))
  odd = [
      hand_tars.sample("000000040", txt=None),
      hand_tars.sample("a", jpg=b""),
      hand_tars.sample("../up"),
      member("b.v2.jpg"),
      member("link.jpg", b"", kind=b"2"),
      b"?" * 512,
  ]
  (tmp_path / "1.tar").write_bytes(b"".join(odd) + hand_tars.tar(41))
  (tmp_path / "2.tar").write_bytes(hand_tars.tar(50)[:700])
  return tmp_path


def index(command, *words, status=0):
  return command.run("siglip_jax.data.index", *map(str, words), status=status)


def test_a_table_says_what_was_found_and_left_out(command, tars):
  out = index(command, tars / "*.tar", "--columns=width").out
  rows = {
      name: number
      for number, name in (
          line.split(None, 1) for line in out.splitlines() if line[:2] == "  "
      )
  }
  assert rows["jpg json txt"] == "41" and rows["jpg json"] == "1"
  assert rows["samples with an image of zero bytes"] == "1"
  assert rows["samples without an image"] == "1"
  assert rows["names with '..'"] == "3"
  assert rows["symbolic links"] == "1"
  assert rows["width"] == "42" and rows["v2.jpg"] == "1"
  assert "1.tar, 9216: a damaged header; 512 bytes were passed over" in out
  assert "2.tar, 0: a truncated member" in out
  assert f"The index is in {tars}/index" in out
  source = tar_source(str(tars / "*.tar"))
  assert len(source) == 41 and len(source.columns("width")) == 41


def test_the_folder_and_the_images_may_be_chosen(command, tars):
  out = tars / "elsewhere"
  index(command, tars / "0.tar", f"--out={out}", "--image=png;jpg")
  assert (out / "0.tar.idx").exists()
  assert not (tars / "index").exists()


WRONG = {
    "no tars": ([], "The tars must be named"),
    "no such tar": (["nowhere.tar"], "nowhere.tar"),
    "no match": (["nowhere*.tar"], "nowhere*.tar finds none"),
    "suffixes": (["0.tar", "--image="], "as 'jpg;png'"),
    "no images": (["0.tar", "--image=gif"], "the suffixes jpg (40), json (40)"),
    "columns": (
        ["0.tar", "--columns=nsfw"],
        "no sample has 'nsfw'. Fields: key",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_command_line_is_one_line(command, tars, kind, monkeypatch):
  words, message = WRONG[kind]
  words = [tars / w if w.endswith(".tar") else w for w in words]
  err = index(command, *words, status=2).err
  assert message in err and len(err.splitlines()) == 1


def test_an_index_that_is_made_again_keeps_its_columns_and_decoding(
    command, tmp_path
):
  web_files.tar(tmp_path / "0.tar", 30)
  (tmp_path / "1.tar").write_bytes(hand_tars.tar(40))  # not a JPEG
  shards = tmp_path / "*.tar"
  index(command, shards, "--columns=width", "--decode")
  out = index(command, shards, "--columns=key").out
  assert "keeps its columns (width, key) and leaves out what cannot" in out
  source = tar_source(str(shards))
  assert len(source) == 30
  assert len(source.columns("width")) == len(source.columns("key")) == 30
  index(command, shards, "--nodecode")
  assert len(tar_source(str(shards))) == 31
