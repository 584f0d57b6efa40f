"""Which part of a preprocessing string makes the images that are encoded."""

import pytest

from siglip_jax.embed import encode
from siglip_jax.errors import UserError


@pytest.mark.parametrize(
    "spec, part",
    [
        (
            'decode|resize((8, 9), method="area")|value_range(-1, 1)|keep("a")',
            "decode()|resize((8, 9), method='area')|value_range(-1, 1)",
        ),
        (
            'tokenize(8, "t")|copy("a|b", "c")|value_range(0, 1)|lower',
            "copy('a|b', 'c')|value_range(0, 1)",
        ),
    ],
)
def test_the_part_of_a_string_that_makes_images(spec, part):
  assert encode.image_part(spec) == part
  assert encode.image_part(part) == part


def test_images_without_a_range_have_no_such_part():
  with pytest.raises(UserError, match="must end in value_range"):
    encode.image_part('lower|keep("text")')
