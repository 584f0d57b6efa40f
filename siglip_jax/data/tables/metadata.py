"""The file metadata.jsonl or metadata.csv of a folder of images.

Folders of the library `datasets` have one: `file_name` is the path of an image
in the folder, and `text` its caption.
"""

from pathlib import Path

from siglip_jax.data import captions
from siglip_jax.data import opening
from siglip_jax.data.tables import lines
from siglip_jax.data.tables import places
from siglip_jax.errors import UserError

COLUMNS = ("file_name", "text")


def read(path: Path) -> captions.Listing:
  """Returns the images that the file names, all found, and their captions.

  Raises:
    UserError: when the file cannot be read, a row has another form, or an image
      is missing or outside the folder.
  """
  entries, numbers = [], []
  rows = lines.rows(path, COLUMNS)
  for number, (image, text) in opening.track(rows, f"Reading {path}, rows"):
    valid = isinstance(image, str) and image and "\0" not in image
    if not valid or not isinstance(text, str):
      raise UserError(
          f"{path}, line {number} must have texts as file_name and text; got"
          f" {image!r:.80} and {text!r:.80}. For several captions of an image,"
          f" give table={path} instead of the folder as path."
      )
    entries.append((image, text))
    numbers.append(number)
  what = f"Looking for the images of {path}, directories"
  images = (image for image, _ in entries)
  missing, outside = places.look_up(path.parent, images, what, inside=True)
  for number, (image, _) in zip(numbers, entries, strict=True):
    if image in missing or image in outside:
      count = len(missing) + len(outside)
      where = "outside the folder" if image in outside else "not there"
      raise UserError(
          f"{path}, line {number}: the image {image[:200]!r} is {where}. In"
          f" all, {count} images are missing or outside the folder."
      )
  return captions.Listing(tuple(entries))
