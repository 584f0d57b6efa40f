"""An index and its tars fit together, or a message says what to do."""

import hand_tars
import pytest

from siglip_jax.data.tars import build
from siglip_jax.data.tars import index as index_lib
from siglip_jax.errors import UserError

OPTIONS = build.Options()


@pytest.fixture
def tars(tmp_path):
  for i in range(4):
    (tmp_path / f"{i}.tar").write_bytes(hand_tars.tar(*range(i + 1)))
  build.build(
      str(tmp_path / "*.tar"), str(tmp_path / "index"), OPTIONS, workers=1
  )
  return tmp_path


def test_an_index_beside_the_tars_is_found(tars):
  opened = index_lib.opened(str(tars / "*.tar"))
  assert opened.index.folder == str(tars / "index")
  assert opened.numbers.tolist() == [0, 1, 2, 3]
  assert len(opened.index.table(2)) == 3


def test_some_tars_of_an_index_may_be_opened(tars):
  opened = index_lib.opened([str(tars / "3.tar"), str(tars / "1.tar")])
  assert opened.numbers.tolist() == [1, 3]


def test_tars_that_moved_keep_their_index(tars, tmp_path_factory):
  other = tmp_path_factory.mktemp("moved")
  (tars / "1.tar").rename(other / "1.tar")
  opened = index_lib.opened(str(other / "1.tar"), str(tars / "index"))
  assert opened.numbers.tolist() == [1]


def test_changed_tars_are_named(tars):
  for i in range(4):
    with (tars / f"{i}.tar").open("ab") as file:
      file.write(bytes(512))
  expected = r"changed: \S+0.tar \(4608 bytes, 4096 when .* and 1 more. Run py"
  with pytest.raises(UserError, match=expected):
    index_lib.opened(str(tars / "*.tar"))


def test_a_tar_that_is_not_in_the_index_is_named(tars):
  (tars / "4.tar").write_bytes(hand_tars.tar(1))
  with pytest.raises(UserError, match="index has no .*/4.tar, but 0.tar, 1"):
    index_lib.opened(str(tars / "*.tar"))


def test_two_tars_never_share_an_entry(tars):
  (tars / "sub").mkdir()
  (tars / "sub" / "1.tar").write_bytes((tars / "1.tar").read_bytes())
  both = [str(tars / "1.tar"), str(tars / "sub" / "1.tar")]
  with pytest.raises(UserError, match="Each tar must have its own entry"):
    index_lib.opened(both, str(tars / "index"))


def test_a_folder_without_an_index_is_named(tars):
  with pytest.raises(UserError, match="There is no index in .*nowhere"):
    index_lib.opened(str(tars / "*.tar"), str(tars / "nowhere"))


def test_small_local_tars_do_without(tars, monkeypatch):
  (tars / "index" / "manifest.json").unlink()
  opened = index_lib.opened(str(tars / "*.tar"), image=("jpg",))
  assert opened.index.folder is None
  assert opened.index.manifest.samples.tolist() == [1, 2, 3, 4]
  assert opened.index.manifest.image == ("jpg",)
  assert len(opened.index.table(3)) == 4
  monkeypatch.setattr(index_lib, "IN_MEMORY", 10_000)
  expected = (
      r"over 2 GB need an index; .*data.index '\S+\*.tar' --out=\S+/index"
  )
  with pytest.raises(UserError, match=expected):
    index_lib.opened(str(tars / "*.tar"))


def test_files_of_another_index_are_refused(tars):
  index = index_lib.opened(str(tars / "*.tar")).index
  shard = build.shards(str(tars / "1.tar"))[0]
  file = tars / "index" / "2.tar.idx"
  file.write_bytes(build.index_shard(shard, OPTIONS))
  with pytest.raises(UserError, match="2.tar.idx must be of the same index"):
    index.table(2)
  file.write_bytes(b"x")
  with pytest.raises(UserError, match="2.tar.idx must be a file that python"):
    index.table(2)
  file.unlink()
  with pytest.raises(UserError, match="2.tar.idx must be a file; there is no"):
    index.table(2)
