"""The documents say what there is: keys of config.data, and links that lead."""

from pathlib import Path
import re

import pytest

from siglip_jax.config import schema
from siglip_jax.config import sources
from siglip_jax.data import kinds
from siglip_jax.data import pipeline

DOCS = [*Path("docs").glob("*.md"), *Path(".").glob("*.md")]


def anchors(path):
  """Yields the anchors of a document's headings, as GitHub makes them."""
  text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
  for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
    plain = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    yield plain.replace(" ", "-")


@pytest.mark.parametrize("path", DOCS, ids=str)
def test_links_between_documents_lead_somewhere(path):
  for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
    if "://" in link:
      continue
    file, _, anchor = link.partition("#")
    other = path.parent / file if file else path
    assert other.exists(), link
    if anchor and other.suffix == ".md":
      assert anchor in set(anchors(other)), link


def test_every_key_of_config_data_is_in_the_table():
  text = Path("docs/data.md").read_text()
  rows = text[text.index("## Every key of config.data") :].splitlines()
  cells = [row.split("|")[1:3] for row in rows if row.startswith("| `")]
  table = {
      key: default.strip()
      for names, default in cells
      for key in re.findall(r"`(\w+)`", names)
  }
  known, _ = schema.keys(kinds.make)
  known |= sources.DATA | sources.LOADER | sources.BOTH
  assert table.keys() == known.keys()
  defaults = schema.defaults(pipeline.train_iterator)
  for key in sources.LOADER:
    assert table[key] == str(defaults[key]), key
