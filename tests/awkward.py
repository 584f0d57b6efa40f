"""Texts and images that go wrong somewhere."""

import io

import numpy as np
from PIL import Image

_HAND_MADE = (
    *("", " ", "\n", "\t \r\n", "\u3000", "\u00a0", "\u2581", "\u2581\u2581a"),
    *(
        "a",
        "A",
        "a photo of a cat",
        "A PHOTO OF A CAT.",
        " leading",
        "trailing ",
    ),
    *("two  spaces", "three   spaces", "a\tb", "a\nb", "a\n\nb", "a\r\nb\x0bc"),
    *(
        "...",
        "!?",
        "- a",
        "'a'",
        "don't",
        "it's 50% off!",
        "a.b.c",
        "(a) [b] {c}",
    ),
    *(
        "#hashtag @user",
        "e-mail: a@b.co",
        "C:\\dir\\file",
        "a/b",
        "a_b",
        "$5.00",
    ),
    *("1", "1234567890", "3.14", "1,000", "½", "²", "٣", "Ⅷ", "①"),
    *(
        "Ünïcödé",
        "ÀÉÎÕÜ",
        "straße STRASSE",
        "İstanbul",
        "ΟΔΥΣΣΕΥΣ",
        "Σ",
        "ΑΣ ΑΣΑ",
    ),
    *(
        "e\u0301",
        "\u00e9",
        "A\u030a",
        "o\u0308\u0304",
        "\u0301",
        "a\u0300\u0301\u0302",
    ),
    *(
        "ﬁ ﬂ ﬀ",
        "ＡＢＣ　１２３",
        "ｶﾞ",
        "ガ",
        "℃ ™ ®",
        "…",
        "—–-",
        "“quoted” ‘it’",
    ),
    *(
        "日本語",
        "日本語のテキスト。",
        "中文，测试！",
        "한국어 문장",
        "ภาษาไทย",
        "हिन्दी क्षत्रिय",
    ),
    *(
        "שלום עולם",
        "מִשְׁפָּט",
        "مرحبا بالعالم",
        "مَرْحَبًا",
        "שלום abc עולם",
        "\u202babc\u202c",
    ),
    *(
        "\u200eltr\u200f",
        "zero\u200bwidth",
        "soft\u00adhyphen",
        "\ufeffbom",
        "a\u2028b\u2029c",
    ),
    *(
        "\x01",
        "a\x02b",
        "\x07bell",
        "\x1b[31mred\x1b[0m",
        "\x7f",
        "\x85",
        "a\x1cb",
    ),
    *(
        "👍",
        "👍🏽",
        "👩\u200d🚀",
        "🏳️\u200d🌈",
        "❤️",
        "🇨🇭",
        "a👍b",
        "👍 👍",
        "🫠",
    ),
    *("𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "𐍈", "\U0010fffd", "\ue000", "\ufffd", "\ufffe"),
    *("a" * 300, "word " * 100, "👍" * 70, "日" * 200, "." * 100, " " * 200),
    *(
        "<unk",
        "unk>",
        "< unk >",
        "&lt;b&gt;",
        "<b>bold</b>",
        "<0x41>",
        "%s {} \\n",
    ),
)


def texts() -> list[str]:
  """Hand-made ones, and random neighbours of them: a few hundred."""
  rng = np.random.default_rng(0)
  found = list(_HAND_MADE)
  short = [t for t in _HAND_MADE if len(t) < 30]
  while len(found) < 400:
    parts = rng.choice(len(short), rng.integers(2, 5))
    found.append(rng.choice(["", " ", "  "]).join(short[i] for i in parts))
  return found


def png(image: Image.Image) -> bytes:
  """A file's bytes."""
  data = io.BytesIO()
  image.save(data, "png")
  return data.getvalue()


def images() -> dict[str, Image.Image]:
  """Odd sizes, one pixel, large ones, and every mode a file may have."""
  rng = np.random.default_rng(0)

  def noise(h, w, channels):
    # Smooth, as images are, with some edges.
    y, x = np.mgrid[:h, :w]
    waves = [np.sin(x / (3 + c) + y / (5 + c)) * 100 + 128 for c in range(4)]
    pixels = np.stack(waves[:channels], -1) + rng.normal(
        0, 20, (h, w, channels)
    )
    return np.clip(pixels, 0, 255).astype(np.uint8)

  rgb = Image.fromarray(noise(61, 83, 3))
  return {
      "odd": Image.fromarray(noise(37, 53, 3)),
      "same": Image.fromarray(noise(24, 24, 3)),
      "one_pixel": Image.fromarray(noise(1, 1, 3)),
      "one_row": Image.fromarray(noise(1, 40, 3)),
      "tiny": Image.fromarray(noise(3, 2, 3)),
      "huge": Image.fromarray(noise(1200, 1701, 3)),
      "wide": Image.fromarray(noise(9, 700, 3)),
      "grey": Image.fromarray(noise(31, 45, 1)[..., 0]),
      "grey_transparent": Image.fromarray(noise(31, 45, 2)),
      "transparent": Image.fromarray(noise(50, 41, 4)),
      "palette": rgb.quantize(64),
      "one_bit": rgb.convert("1"),
  }
