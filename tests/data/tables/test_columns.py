"""Columns of Parquet files; tests/data/tables/test_parquet.py has refusals."""

import pyarrow as pa
import pytest

from siglip_jax.data.tables import columns
from siglip_jax.errors import UserError

SCHEMA = pa.schema(
    {
        "image": pa.string(),
        "jpg": pa.large_binary(),
        "photo": pa.struct({"path": pa.string(), "bytes": pa.binary()}),
        "meta": pa.struct({"width": pa.int32(), "tags": pa.list_(pa.string())}),
        "items": pa.list_(pa.struct({"n": pa.int32(), "t": pa.string()})),
    }
)


def test_an_image_is_bytes_or_a_struct_with_bytes():
  assert columns.image_path(SCHEMA, "x;jpg") == ["jpg"]
  assert columns.image_path(SCHEMA, "photo;jpg") == ["photo", "bytes"]
  with pytest.raises(UserError, match="'image' is string. .*img2dataset"):
    columns.image_path(SCHEMA, "image;jpg")
  with pytest.raises(
      UserError, match="column 'x;y'.* have image, jpg.*the tars"
  ):
    columns.image_path(SCHEMA, "x;y")


def test_texts_may_lie_in_lists_and_scalars_may_not():
  assert columns.text_path(SCHEMA, "items.t") == ["items", "t"]
  assert columns.scalar_path(SCHEMA, "meta.width") == ["meta", "width"]
  for key in ("items.n", "meta.tags", "meta", "jpg"):
    with pytest.raises(UserError, match=f"'{key}' is"):
      columns.scalar_path(SCHEMA, key)
