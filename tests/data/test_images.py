"""Every kind of image to upright 8-bit RGB, and what is refused."""

import io

import fakes
import numpy as np
from PIL import Image
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
  got = images.decode(encoded(row(pixels, np.uint8)), alpha=True)
  np.testing.assert_array_equal(got, [pixels])
  got = images.decode(encoded(Image.new("RGB", (2, 1), RED)), alpha=True)
  np.testing.assert_array_equal(got, [[(*RED, 255)] * 2])


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
