"""Makes tar shards as img2dataset writes them, of synthetic photos.

  python benchmarks/tars_made.py OUT --samples=20000 [--awkward]

Photos are crops of a hundred textures: colour gradients, noise at several
scales and shapes with sharp edges, at 256 to 768 pixels and JPEG quality 90,
about 50 kB. A caption says which shapes and colours are in the image. The same
arguments give the same bytes.

With --awkward, every shard has samples that are damaged, incomplete or unusual,
and a few shards are damaged themselves.
"""

import argparse
import functools
import hashlib
import io
import json
from pathlib import Path
import tarfile
import time

import cv2
import numpy as np
from PIL import Image

SHARD = 1000  # samples
_TEXTURES = 100
_SIDE = 800  # pixels of a texture
_QUALITY = 90
_TIME = 1_700_000_000
_COLOURS = {
    "red": (200, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 70, 200),
    "yellow": (230, 210, 50),
    "purple": (130, 50, 160),
    "orange": (240, 140, 30),
    "white": (240, 240, 240),
    "black": (20, 20, 20),
}
_SHAPES = ("circle", "square", "triangle", "line")


@functools.cache
def texture(seed: int, number: int) -> tuple[np.ndarray, str]:
  """Returns a texture and what is to be seen on it."""
  rng = np.random.default_rng([seed, number])
  names = rng.choice(list(_COLOURS), 4, replace=False).tolist()
  corners = np.array([_COLOURS[n] for n in names], np.float32).reshape(2, 2, 3)
  image = cv2.resize(corners, (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR)
  for cells, strength in ((6, 40), (25, 30), (100, 22), (400, 10)):
    noise = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
    image += cv2.resize(noise, (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC)
  image = np.clip(image, 0, 255).astype(np.uint8)
  shapes = rng.choice(_SHAPES, 2, replace=False).tolist()
  for shape in shapes * 3:
    _draw(image, shape, _COLOURS[names[shapes.index(shape)]], rng)
  grain = 3 * rng.standard_normal(image.shape, np.float32)
  image = np.clip(image + grain, 0, 255).astype(np.uint8)
  seen = f"a {names[0]} {shapes[0]} and a {names[1]} {shapes[1]}"
  return image, f"{seen} on {names[2]}"


def _draw(image: np.ndarray, shape: str, colour, rng) -> None:
  x, y = rng.integers(100, _SIDE - 100, 2).tolist()
  r = int(rng.integers(30, 140))
  if shape == "circle":
    cv2.circle(image, (x, y), r, colour, -1)
  elif shape == "square":
    cv2.rectangle(image, (x - r, y - r), (x + r, y + r), colour, -1)
  elif shape == "triangle":
    corners = np.array([[x, y - r], [x - r, y + r], [x + r, y + r]])
    cv2.fillPoly(image, [corners], colour)
  else:
    cv2.line(image, (x - r, y), (x + r, y + r), colour, 6)


def pixels(seed: int, number: int) -> tuple[np.ndarray, str]:
  """Returns the image of a sample and its caption."""
  rng = np.random.default_rng([seed, 1, number])
  image, caption = texture(seed, int(rng.integers(_TEXTURES)))
  short = int(rng.integers(256, 513))
  long = min(int(short * rng.uniform(1, 1.5)), 768)
  height, width = (short, long) if rng.random() < 0.5 else (long, short)
  top, left = (int(rng.integers(_SIDE - n + 1)) for n in (height, width))
  image = image[top : top + height, left : left + width]
  if rng.random() < 0.5:
    image = image[:, ::-1]
  shift = rng.integers(-12, 13, 3).tolist()
  lighter = cv2.add(image, (*(max(s, 0) for s in shift), 0))
  return cv2.subtract(lighter, (*(max(-s, 0) for s in shift), 0)), caption


def jpeg(image: np.ndarray, *, mode: str = "RGB", **options) -> bytes:
  """Returns an image as a JPEG."""
  out = io.BytesIO()
  picked = Image.fromarray(image).convert(mode)
  picked.save(out, "jpeg", quality=_QUALITY, **options)
  return out.getvalue()


def sample(seed: int, number: int) -> dict[str, bytes]:
  """Returns the members of a sample by their suffixes."""
  image, caption = pixels(seed, number)
  data = jpeg(image)
  rng = np.random.default_rng([seed, 2, number])
  fields = {
      "caption": caption,
      "url": f"file:///made/{number}.jpg",
      "key": key(number),
      "status": "success",
      "error_message": None,
      "width": image.shape[1],
      "height": image.shape[0],
      "original_width": 2 * image.shape[1],
      "original_height": 2 * image.shape[0],
      "sha256": hashlib.sha256(data).hexdigest(),
      "similarity": round(float(rng.uniform(0.1, 0.5)), 4),
      "re_caption": f"An image that shows {caption}.",
  }
  text = json.dumps(fields, indent=4).encode()
  return {"jpg": data, "json": text, "txt": caption.encode()}


def key(number: int) -> str:
  """Returns a sample's key, shard and place, as img2dataset writes it."""
  return f"{number // SHARD:05d}{number % SHARD:04d}"


def awkward(parts: dict[str, bytes], image: np.ndarray, kind: int):
  """Returns a sample with one of the oddities that are met in such sets."""
  data = parts["jpg"]
  exif = Image.Exif()
  exif[0x0112] = 6  # turned by 90 degrees
  png = io.BytesIO()
  Image.fromarray(image).save(png, "png")
  changes = (
      {"jpg": data[: len(data) // 2]},
      {"jpg": b"<html>404</html>"},
      {"jpg": b""},
      {"txt": None},
      {"txt": b""},
      {"json": None},
      {"jpg": jpeg(image, mode="CMYK")},
      {"jpg": jpeg(image, progressive=True)},
      {"jpg": jpeg(image, mode="L")},
      {"jpg": jpeg(image, exif=exif)},
      {"jpg": png.getvalue()},
      {"jpg": None, "JPG": data},
  )
  return parts | changes[kind % len(changes)]


def write(path: Path, seed: int, numbers: range, odd: bool) -> list[dict]:
  """Writes a shard; returns the fields of its samples."""
  rows = []
  with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
    for number in numbers:
      parts: dict = sample(seed, number)
      rows.append(json.loads(parts["json"]))
      place = number % SHARD
      if odd and place % 41 == 7:
        parts = awkward(parts, pixels(seed, number)[0], place // 41)
      _add(tar, key(number), parts)
      if odd and place == 500:
        _add(tar, key(number), parts)  # the same key again
        _add(tar, f"__MACOSX/._{key(number)}", {"jpg": b"x"})
        link = tarfile.TarInfo(f"{key(number)}x.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, f"{key(number)}.jpg"
        tar.addfile(link)
  return rows


def _add(tar: tarfile.TarFile, name: str, parts: dict) -> None:
  for suffix, data in parts.items():
    if data is not None:
      info = tarfile.TarInfo(f"{name}.{suffix}")
      info.size, info.mtime = len(data), _TIME
      tar.addfile(info, io.BytesIO(data))


def damage(path: Path, number: int) -> None:
  """Damages one shard in five, each in another way."""
  data = bytearray(path.read_bytes())
  if number % 20 == 3:  # a header in the middle
    middle = data.index(b"ustar", len(data) // 2) - 257
    data[middle : middle + 100] = b"\xff" * 100
  elif number % 20 == 8:  # the end is missing
    del data[len(data) - 30_000 :]
  elif number % 20 == 13:  # two tars in one file
    half = data.index(key(number * SHARD + SHARD // 2).encode() + b".jpg")
    data[half:half] = bytes(10_240)
  path.write_bytes(data)


def save_table(path: Path, rows: list[dict]) -> None:
  """Writes the parquet beside a shard, if pyarrow is installed."""
  try:
    import pyarrow as pa
    from pyarrow import parquet
  except ImportError:
    return
  columns = {name: [row[name] for row in rows] for name in rows[0]}
  columns["error_message"] = pa.array(columns["error_message"], pa.string())
  parquet.write_table(pa.table(columns), path)


def make(out: Path, samples: int, *, seed: int = 0, odd: bool = False) -> None:
  """Writes all shards, a .parquet and a _stats.json beside each."""
  out.mkdir(parents=True, exist_ok=True)
  for number, first in enumerate(range(0, samples, SHARD)):
    numbers = range(first, min(first + SHARD, samples))
    path = out / f"{number:05d}.tar"
    rows = write(path, seed, numbers, odd)
    if odd:
      damage(path, number)
    save_table(path.with_suffix(".parquet"), rows)
    stats = {
        "count": len(rows),
        "successes": len(rows),
        "failed_to_download": 0,
    }
    (out / f"{number:05d}_stats.json").write_text(json.dumps(stats))


def main() -> None:
  """Makes the set of the command line."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
  parser.add_argument("out", type=Path)
  parser.add_argument("--samples", type=int, default=20_000)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--awkward", action="store_true")
  options = parser.parse_args()
  begin = time.monotonic()
  make(options.out, options.samples, seed=options.seed, odd=options.awkward)
  tars = [path.stat().st_size for path in options.out.glob("*.tar")]
  seconds = time.monotonic() - begin
  print(
      f"{options.samples} samples in {len(tars)} shards in {options.out}:"
      f" {sum(tars) / 1e9:.2f} GB, {sum(tars) / options.samples / 1e3:.1f} kB a"
      f" sample ({seconds:.0f} s)"
  )


if __name__ == "__main__":
  main()
