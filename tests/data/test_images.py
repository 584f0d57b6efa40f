"""Every kind of image to upright 8-bit RGB, and what is refused."""

import io

import fakes
import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageOps
from PIL import JpegImagePlugin
import pytest

from siglip_jax.data import images

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def encoded(image, fmt="png", **options):
  out = io.BytesIO()
  image.save(out, format=fmt, **options)
  return out.getvalue()


def row(values, dtype):
  return Image.fromarray(np.array([values], dtype))


def palette():
  image = row([0, 1], np.uint8)
  image.putpalette([*RED, *GREEN])
  return image


@pytest.mark.parametrize(
    "data, expected",
    [
        pytest.param(
            encoded(row([RED, GREEN], np.uint8)), (RED, GREEN), id="rgb"
        ),
        pytest.param(
            encoded(row([(*RED, 255), (*RED, 0)], np.uint8)),
            (RED, (255,) * 3),
            id="alpha",
        ),
        pytest.param(encoded(palette()), (RED, GREEN), id="palette"),
        pytest.param(
            encoded(palette(), transparency=1),
            (RED, (255,) * 3),
            id="transparent color of a palette",
        ),
        pytest.param(
            encoded(palette(), transparency=bytes([255, 0])),
            (RED, (255,) * 3),
            id="alpha of a palette",
        ),
        pytest.param(
            encoded(row([RED, GREEN], np.uint8), transparency=GREEN),
            (RED, (255,) * 3),
            id="transparent color",
        ),
        pytest.param(
            encoded(row([0, 99], np.uint8)), ((0,) * 3, (99,) * 3), id="grey"
        ),
        pytest.param(
            encoded(row([True, False], bool)),
            ((255,) * 3, (0,) * 3),
            id="black and white",
        ),
        pytest.param(
            encoded(
                Image.merge(
                    "LA", [row([7, 7], np.uint8), row([255, 0], np.uint8)]
                )
            ),
            ((7,) * 3, (255,) * 3),
            id="grey and alpha",
        ),
        pytest.param(
            encoded(row([257 * 9, 65535], np.uint16)),
            ((9,) * 3, (255,) * 3),
            id="16 bits",
        ),
        pytest.param(
            encoded(row([-9, 70_000], np.int32), "tiff"),
            ((0,) * 3, (255,) * 3),
            id="32 bits, out of range",
        ),
        pytest.param(
            encoded(row([0.2, 1.0], np.float32), "tiff"),
            ((51,) * 3, (255,) * 3),
            id="float to 1",
        ),
        pytest.param(
            encoded(row([51.0, 300.0], np.float32), "tiff"),
            ((51,) * 3, (255,) * 3),
            id="float to 255",
        ),
        pytest.param(
            encoded(row([np.nan, 1.0], np.float32), "tiff"),
            ((0,) * 3, (255,) * 3),
            id="float with NaN",
        ),
        pytest.param(
            encoded(Image.new("CMYK", (2, 1), (0, 255, 255, 0)), "tiff"),
            (RED, RED),
            id="cmyk",
        ),
        pytest.param(
            encoded(
                Image.new("RGB", (2, 1), RED),
                "gif",
                save_all=True,
                append_images=[Image.new("RGB", (2, 1), BLUE)],
            ),
            (RED, RED),
            id="animation",
        ),
    ],
)
def test_every_mode_becomes_rgb_on_white(data, expected):
  got = images.decode(data)
  assert got.dtype == np.uint8
  np.testing.assert_array_equal(got, [expected])


def test_cmyk_jpegs_keep_their_colors():
  data = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "jpeg")
  np.testing.assert_allclose(images.decode(data)[3, 3], RED, atol=2)


def test_alpha_is_kept_where_asked_for():
  pixels = [(*RED, 255), (*GREEN, 7)]
  got = images.decode(encoded(row(pixels, np.uint8)), alpha="keep")
  np.testing.assert_array_equal(got, [pixels])
  for fmt in ("png", "jpeg"):
    data = encoded(Image.new("RGB", (16, 8), RED), fmt)
    got = images.decode(data, alpha="keep")
    assert got.shape == (8, 16, 4)
    np.testing.assert_allclose(got[3, 3], (*RED, 255), atol=2)


def test_transparency_is_ignored_where_asked_for():
  pixels = [(*RED, 255), (*GREEN, 0)]
  got = images.decode(encoded(row(pixels, np.uint8)), alpha="ignore")
  np.testing.assert_array_equal(got, [(RED, GREEN)])
  clear = encoded(row([RED, GREEN], np.uint8), transparency=GREEN)
  got = images.decode(clear, alpha="ignore")
  np.testing.assert_array_equal(got, [(RED, GREEN)])


def test_transparency_mixes_with_the_background():
  rgba = np.array([[(200, 0, 0, 51), (201, 0, 0, 128)]], np.uint8)
  got = images.composite(rgba, (0, 100, 255))
  np.testing.assert_array_equal(got, [[(40, 80, 204), (101, 50, 127)]])


@pytest.mark.parametrize(
    "orientation, turned",
    [
        (1, lambda x: x),
        (2, np.fliplr),
        (3, lambda x: np.rot90(x, 2)),
        (4, np.flipud),
        (5, lambda x: x.transpose(1, 0, 2)),
        (6, lambda x: np.rot90(x, -1)),
        (7, lambda x: np.rot90(x, 2).transpose(1, 0, 2)),
        (8, lambda x: np.rot90(x)),
    ],
)
def test_images_are_turned_upright(orientation, turned):
  pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
  exif = Image.Exif()
  exif[0x0112] = orientation
  got = images.decode(encoded(Image.fromarray(pixels), exif=exif))
  np.testing.assert_array_equal(got, turned(pixels))


def by_pillow(data, near=None):
  """Decodes by Pillow alone: pixels, or None for what it refuses."""
  try:
    with Image.open(io.BytesIO(data), formats=images.FORMATS) as image:
      if near:
        image.draft(None, (near, near))
      image.load()
      return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
  except Exception:
    return None


def photo(height, width, seed=0):
  """Returns an image with smooth and sharp parts."""
  coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
  x = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
  ImageDraw.Draw(x).line((0, 0, width, height), RED, 3)
  return x


def turned(number):
  exif = Image.Exif()
  exif[0x0112] = number
  return exif


PLAIN = [dict(subsampling=s) for s in (0, 1, 2)] + [
    dict(progressive=True),
    dict(quality=30, optimize=True, restart_marker_rows=1),
    dict(exif=turned(1)),
    dict(keep_rgb=True),
]
NOT_PLAIN = [dict(exif=turned(n)) for n in range(2, 9)]


@pytest.mark.parametrize("options", [*PLAIN, *NOT_PLAIN])
@pytest.mark.parametrize("size", [(1, 1), (7, 7), (8, 9), (65, 131)])
def test_jpegs_have_the_pixels_that_pillow_reads(options, size):
  for image in (photo(*size), photo(*size).convert("L")):
    if image.mode == "L" and options.keys() & {"subsampling", "keep_rgb"}:
      continue
    data = encoded(image, "jpeg", **options)
    for near in (None, 1, 8, 16, 33):
      expected = by_pillow(data, near)
      got = images.decode(data, near=near)
      np.testing.assert_array_equal(got, expected)
      got = images.decode(data, near=near, pillow=True)
      assert got.mode == "RGB"
      np.testing.assert_array_equal(np.asarray(got), expected)


def test_tiny_jpegs_are_scaled_as_pillow_scales_them():
  # 1/4 and 3/8 of five pixels are both two.
  noise = np.random.default_rng(0).integers(0, 256, (5, 5, 3), np.uint8)
  data = encoded(Image.fromarray(noise), "jpeg", quality=95)
  np.testing.assert_array_equal(images.decode(data, near=1), by_pillow(data, 1))


@pytest.mark.parametrize(
    "kind, options, expected",
    [("RGB", x, True) for x in PLAIN]
    + [("RGB", x, False) for x in NOT_PLAIN]
    + [("L", {}, True), ("CMYK", {}, False)],
)
def test_simplejpeg_reads_plain_jpegs_alone(
    kind, options, expected, monkeypatch
):
  load, calls = JpegImagePlugin.JpegImageFile.load, []

  def look(image):
    calls.append(image)
    return load(image)

  monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", look)
  data = encoded(photo(64, 96).convert(kind), "jpeg", **options)
  for near in (None, 16):  # whole and scaled
    calls.clear()
    images.decode(data, near=near)
    assert not calls if expected else calls


def test_damaged_jpegs_are_what_pillow_makes_of_them():
  rng = np.random.default_rng(0)
  whole = [
      encoded(photo(40, 56, i), "jpeg", **options)
      for i, options in enumerate(({}, *PLAIN[:5]))
  ]
  refused, changed = 0, 0
  for number in range(300):
    data = bytearray(whole[number % len(whole)])
    place = int(rng.integers(2, len(data)))
    if number % 3 == 0:
      data[place] ^= 1 << int(rng.integers(8))
    elif number % 3 == 1:
      del data[place : place + int(rng.integers(1, 30))]
    else:
      data = data[:place] + b"\xff\xd9"
    expected = by_pillow(bytes(data))
    if expected is None:
      refused += 1
      with pytest.raises(images.ImageError):
        images.decode(bytes(data))
      continue
    got = images.decode(bytes(data))
    np.testing.assert_array_equal(got, expected)
    changed += not np.array_equal(got, by_pillow(whole[number % len(whole)]))
  assert refused > 30 and changed > 60  # both kinds were there


@pytest.mark.parametrize("kind", ["RGB", "L", "RGBA"])
def test_resizing_is_pillows(kind):
  image, size = photo(31, 45).convert(kind), (20, 24)
  for method in (Image.Resampling.BILINEAR, Image.Resampling.BOX):
    expected = np.asarray(image.resize(size, method))
    pixels = np.asarray(image)
    for form in (
        image,
        pixels,
        np.tile(pixels, (2, 2, 1)[: pixels.ndim])[:31, :45],
    ):
      got = images.resize(form, size, method)
      np.testing.assert_array_equal(got, expected)


def test_an_image_in_shared_memory_may_keep_its_size():
  data = encoded(photo(16, 24), "jpeg")
  image = images.decode(data, pillow=True)
  same = images.resize(image, (24, 16), Image.Resampling.BILINEAR)
  np.testing.assert_array_equal(same, images.decode(data))


def test_large_images_are_more_than_one_block_of_memory():
  image = Image.new("RGB", (2100, 2100), GREEN)
  got = images.resize(image, (2200, 2200), Image.Resampling.BOX)
  assert got.shape == (2200, 2200, 3) and (got[-1, -1] == GREEN).all()


def test_jpegs_are_decoded_no_larger_than_needed():
  data = encoded(Image.new("RGB", (640, 480), RED), "jpeg", quality=95)
  assert images.decode(data).shape == (480, 640, 3)
  assert images.decode(data, near=64).shape == (120, 160, 3)
  assert images.decode(data, near=600).shape == (480, 640, 3)


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "empty"),
        (b"<html>404</html>", "no PNG, JPEG"),
        (fakes.png((1, 2, 3))[:50], "truncated"),
        (encoded(Image.effect_noise((64, 64), 50), "jpeg")[:-900], "truncated"),
    ],
)
def test_what_is_no_image_says_why(data, reason):
  with pytest.raises(images.ImageError, match=reason):
    images.decode(data)


@pytest.mark.parametrize("fmt", ["eps", "pcx", "ico", "tga"])
def test_formats_that_are_more_than_pixels_are_not_opened(fmt, monkeypatch):
  def start(*args, **kwargs):
    raise AssertionError("a program was started")

  monkeypatch.setattr("subprocess.check_call", start)
  monkeypatch.setattr("subprocess.Popen", start)
  with pytest.raises(images.ImageError, match="no PNG, JPEG"):
    images.decode(encoded(Image.new("RGB", (16, 16), RED), fmt))


@pytest.mark.parametrize("fmt", images.FORMATS)
def test_formats_that_are_opened(fmt):
  got = images.decode(encoded(Image.new("RGB", (2, 2), RED), fmt))
  np.testing.assert_allclose(got, [[RED] * 2] * 2, atol=2)


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch):
  def load(self):
    raise AssertionError("decoded")

  data = encoded(Image.new("L", (11, 10)))
  assert images.decode(data, max_pixels=110).shape == (10, 11, 3)
  monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
  with pytest.raises(images.ImageError, match="11 x 10 pixels .* limit of 109"):
    images.decode(data, max_pixels=109)


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_decompression_bombs_are_refused(side):
  bomb = encoded(Image.new("1", (side, side)))
  assert len(bomb) < 100_000
  with pytest.raises(images.ImageError):
    images.decode(bomb)
