"""Small folders of transformers, and how to change their JSON files."""

import json
from pathlib import Path

TINY = Path("tests/fixtures/hf_siglip_tiny")
TINY2 = Path("tests/fixtures/hf_siglip2_tiny")


def change(folder, name="config.json", **values):
  """Sets values of a JSON file; `a__b=1` sets `b` of the object `a`."""
  path = folder / name
  config = json.loads(path.read_text()) if path.exists() else {}
  for key, value in values.items():
    *nodes, leaf = key.split("__")
    node = config
    for n in nodes:
      node = node[n]
    node[leaf] = value
  path.write_text(json.dumps(config))
