"""Records are chosen by conditions and by lists of keys."""

import numpy as np
import pytest

from siglip_jax.data import filtering
from siglip_jax.data.tables import filters
from siglip_jax.errors import UserError


class Table:
  """A source of columns."""

  width = np.arange(10)

  def columns(self, name):
    if name != "uid":
      return self.width
    return np.array([f"{i:032x}" for i in range(10)], object)

  def digest(self):
    return "0123456789ab"

  def __len__(self):
    return 10


def test_conditions_and_lists_must_all_be_met(tmp_path, capsys):
  keys = np.array([(0, 3), (0, 7), (0, 9)], [("f0", "<u8"), ("f1", "<u8")])
  np.save(tmp_path / "only.npy", keys)
  (tmp_path / "without.txt").write_text(f"{9:032x}\n")
  chosen = filtering.chosen(
      Table(),
      where="width > 3",
      only=str(tmp_path / "only.npy"),
      without=str(tmp_path / "without.txt"),
  )
  assert np.flatnonzero(chosen).tolist() == [7]
  assert (
      "1 of 10 records pass where='width > 3', only=" in capsys.readouterr().err
  )


def test_rows_are_of_the_data_that_the_list_was_made_from(tmp_path):
  path = tmp_path / "rows.txt"
  filters.write_rows(path, np.array([1, 2]), "0123456789ab")
  chosen = filtering.chosen(Table(), without=str(path))
  assert np.flatnonzero(~chosen).tolist() == [1, 2]
  filters.write_rows(path, np.array([1, 2]), "other")
  with pytest.raises(UserError, match="digest other; these have 0123456789ab"):
    filtering.chosen(Table(), without=str(path))


def test_no_record_is_an_error():
  with pytest.raises(UserError, match="one of 10 records.*width > 99.*none"):
    filtering.chosen(Table(), where="width > 99")
