"""Small files as people have them from the web: tars, parquet, CSV."""

import io
import json
import tarfile

from PIL import Image
import pyarrow as pa
from pyarrow import parquet as pq


def jpeg(i):
  buffer = io.BytesIO()
  Image.new("RGB", (8, 8), (i % 256, 20, 30)).save(buffer, "JPEG")
  return buffer.getvalue()


def tar(path, count, start=0):
  """Writes a tar as img2dataset does."""
  with tarfile.open(path, "w") as file:
    for i in range(start, start + count):
      meta = {"re": [f"re {i}", f"more {i}"], "width": i, "uid": f"{i:032x}"}
      parts = {
          "jpg": jpeg(i),
          "json": json.dumps(meta).encode(),
          "txt": f"text {i}".encode(),
      }
      for suffix, content in parts.items():
        info = tarfile.TarInfo(f"{i:09d}.{suffix}")
        info.size = len(content)
        file.addfile(info, io.BytesIO(content))
  return str(path)


def parquet(path, count):
  images = [{"bytes": jpeg(i), "path": None} for i in range(count)]
  texts = [f"row {i}" for i in range(count)]
  table = pa.table({"image": images, "text": texts, "width": range(count)})
  pq.write_table(table, path, row_group_size=10)
  return str(path)


def table(folder, count):
  lines = ["filepath,title"]
  for i in range(count):
    (folder / f"{i}.jpg").write_bytes(jpeg(i))
    lines.append(f"{i}.jpg,line {i}")
  (folder / "pairs.csv").write_text("\n".join(lines))
  return str(folder / "pairs.csv")
