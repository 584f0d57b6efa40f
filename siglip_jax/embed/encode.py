"""A data set to embeddings of its images: shards, in parts, again and again.

Each process encodes shards of its own on its own devices, so any number of
hosts share the work through one folder and wait for each other only at the end.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import itertools
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
import ml_collections
import numpy as np

from siglip_jax import progress
from siglip_jax import sharding
from siglip_jax.config import check as config_check
from siglip_jax.config import sources as config_sources
from siglip_jax.data import embeddings
from siglip_jax.data import ops
from siglip_jax.data import sources
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.data.preprocess import parse
from siglip_jax.data.preprocess import render
from siglip_jax.embed import tower
from siglip_jax.embed import views as crops_lib
from siglip_jax.errors import UserError
from siglip_jax.models import two_towers
from siglip_jax.models.two_towers import TwoTowers
from siglip_jax.weights import tower_file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """The flags of `embed.py` beside --config and --out, by their names."""

  split: str = "train"
  model: str | None = None
  dtype: str | None = None
  crops: int = 0
  batch_size: int = 256
  shard_size: int = 16_384

  def __post_init__(self):
    for name, low in (("crops", 0), ("batch_size", 1), ("shard_size", 1)):
      if getattr(self, name) < low:
        raise UserError(
            f"--{name} must be a whole number from {low} up; got"
            f" {getattr(self, name)}."
        )


def embed(
    config: ml_collections.ConfigDict, out: str | Path, options: Options
) -> dict[str, Any]:
  """Writes a folder of embeddings, or what is missing of it.

  Args:
    config: with an image tower, and with `init` where `options.model` is None.
    out: the folder, which all processes must see.
    options: see the flags.

  Returns:
    The manifest.

  Raises:
    UserError: the config, the tower or the data cannot be used; or the folder
      holds something else, which stays as it is.
  """
  config_check.validate(config)
  model = TwoTowers(**config.model.to_dict())
  if model.embedded:
    raise UserError(
        "To make embeddings a config needs its image tower; this one is of a"
        " run on embeddings: leave `embeddings` out of --config."
    )
  folder = Path(out).expanduser()
  data = {k: config.data[k] for k in config_sources.source_keys(config)}
  source = sources.make(**data | {"split": options.split})
  made_with = _made_with(config, options.crops)
  image, came_from = tower.load(config, model, options.model)
  wanted = {
      "format": embeddings.FORMAT,
      "tower_digest": tower_file.digest(image),
      **tower.identity(config),
      "made_with": made_with,
      "crops": options.crops,
      "seed": config.seed,
      "data": {k: data[k] for k in data if k not in ("split", "data_dir")},
      "split": options.split,
      "examples": len(source),
      "shard_size": options.shard_size,
      "dtype": _dtype(options.dtype or model.dtype),
      "dim": model.image_dim,
  }
  _begin(folder, wanted, image)
  count = -(-len(source) // options.shard_size)
  paths = embeddings.shard_paths(folder, count)
  if not (folder / embeddings.MANIFEST).exists():
    make = crops_lib.Crops(
        source,
        Preprocess(made_with),
        side=config.image_size,
        crops=options.crops,
        seed=config.seed,
    )
    encode = _encoder(model, image, make, embeddings.DTYPES[wanted["dtype"]])
    _write_shards(config, options, make, encode, paths)
    _together("embedded")
    if jax.process_index() == 0:
      _finish(folder, wanted, paths, source, came_from)
    _together("finished")
  return embeddings.read_manifest(folder)


def _dtype(name: str) -> str:
  if name not in embeddings.DTYPES:
    raise UserError(
        f"Embeddings are kept as {' or '.join(embeddings.DTYPES)}; config.model"
        f" has {name}. Give --dtype."
    )
  return name


def _made_with(config, crops: int) -> str:
  """The preprocessing to run."""
  if not crops:
    return config.preprocess.image
  spec = image_part(config.data.pp)
  if crops > 1 and not any(ops.is_random(name) for name, *_ in parse(spec)):
    raise UserError(
        f"--crops={crops} needs something random in config.data.pp, or all are"
        f" equal; got {spec!r}. Add such an operation, or ask for --crops=1."
    )
  return spec


def image_part(spec: str) -> str:
  """The part of a string that makes an image, up to its value_range.

  Raises:
    UserError: it has none.
  """
  calls = parse(spec)
  names = [name for name, *_ in calls]
  if "value_range" not in names:
    raise UserError(
        "Preprocessing of images must end in value_range, as in"
        f" 'decode|resize(224)|value_range(-1,1)'; got {spec!r}."
    )
  images = calls[: names.index("value_range") + 1]
  return render(call for call in images if call[0] != "tokenize")


def _begin(folder: Path, wanted: Mapping[str, Any], image: Mapping) -> None:
  """Sees to it that the folder is this work's, before anything is written."""
  started = folder / embeddings.STARTED
  try:
    folder.mkdir(parents=True, exist_ok=True)
    there = sorted(p.name for p in folder.iterdir())
  except OSError as e:
    raise UserError(
        f"--out must be a folder that can be written to: {folder}"
        f" ({e.strerror})."
    ) from None
  known = [p for p in (folder / embeddings.MANIFEST, started) if p.exists()]
  if known:
    _check_same(known[0], wanted)
  elif any(not n.startswith("started.") for n in there):
    raise UserError(
        f"--out must be a new folder, or one that this command began: {folder}"
        f" holds {there[0]} and no {embeddings.STARTED}. Nothing was changed;"
        " give another --out."
    )
  _together("checked")
  if jax.process_index() == 0 and not known:
    embeddings.write_json(started, wanted)
  if jax.process_index() == 0 and not (folder / embeddings.TOWER).exists():
    tower_file.write(folder / embeddings.TOWER, image)
  _together("begun")


def _check_same(path: Path, wanted: Mapping[str, Any]) -> None:
  there = embeddings.read_json(path)
  for key, value in wanted.items():
    if there[key] != value:
      raise UserError(
          f"{path.parent} was begun with {key} = {there[key]!r}; now it is"
          f" {value!r}. Nothing was changed: ask for what is there, or give"
          " another --out."
      )


def _encoder(
    model: TwoTowers, image: Mapping, make: crops_lib.Crops, dtype: np.dtype
) -> Callable[[np.ndarray], jax.Array]:
  """Encodes images on this process's own devices."""
  mesh = sharding.make_mesh(jax.local_devices())
  params = jax.device_put(image, sharding.replicated(mesh))
  rows = sharding.batch_sharding(mesh)

  def encode(params, images):
    scaled = two_towers.scale(images, make.value_range)
    return model.encode_image(params, scaled).astype(dtype)

  compiled = jax.jit(sharding.on_mesh(mesh, encode), out_shardings=rows)
  return lambda images: compiled(params, jax.device_put(images, rows))


def _write_shards(
    config,
    options: Options,
    make: crops_lib.Crops,
    encode: Callable[[np.ndarray], jax.Array],
    paths: Sequence[Path],
) -> None:
  """All shards of this process that are not there yet."""
  parts = _missing(paths, options.shard_size, len(make.source))
  size = _batch_size(options, make.count)
  loader = config_sources.loader_options(config)
  loader.pop("cache_mb", None)
  batches = crops_lib.batches(make, parts.values(), size, **loader)
  results = _behind(batches, encode)
  total = sum(map(len, parts.values()))
  done, skipped = 0, 0
  with progress.Pace(
      "examples", total=total, show=jax.process_index() == 0
  ) as pace:
    for path, part in parts.items():
      records = []
      for batch, z in itertools.islice(results, -(-len(part) // size)):
        records += _packed(batch, z, make.count)
        pace.update(done + len(records))
      done += len(part)
      skipped += len(part) - len(records)
      _check_skipped(skipped, done, config)
      embeddings.write_shard(path, records)
      pace.update(done, f"{path.stem} is written")


def _missing(
    paths: Sequence[Path], size: int, total: int
) -> dict[Path, np.ndarray]:
  """The shards that this process has to write, and their examples."""
  mine = range(jax.process_index(), len(paths), jax.process_count())
  return {
      paths[i]: np.arange(i * size, min((i + 1) * size, total))
      for i in mine
      if not paths[i].exists()
  }


def _batch_size(options: Options, crops: int) -> int:
  """Examples a batch: images over crops, a multiple of the devices."""
  devices = jax.local_device_count()
  images = min(options.batch_size, options.shard_size * crops)
  return -(-images // (crops * devices)) * devices


def _behind(
    batches: Iterator[dict], encode: Callable[[np.ndarray], jax.Array]
) -> Iterator[tuple[dict, np.ndarray]]:
  """Each batch and its embeddings, while the next one is being encoded."""
  before = None
  for batch in batches:
    this = batch, encode(batch["images"])
    if before is not None:
      yield before[0], np.asarray(jax.device_get(before[1]))
    before = this
  if before is not None:
    yield before[0], np.asarray(jax.device_get(before[1]))


def _packed(batch: Mapping, z: np.ndarray, crops: int) -> list[bytes]:
  """Records of a batch without those that could not be read, and padding."""
  z = z.reshape(-1, crops, z.shape[-1])
  return [
      embeddings.pack(int(key), z[i], record)
      for i, (key, record) in enumerate(
          zip(batch["keys"], batch["records"], strict=True)
      )
      if key >= 0
  ]


def _check_skipped(skipped: int, done: int, config) -> None:
  if skipped > config.data.max_replaced_share * done:
    raise UserError(
        f"{skipped} of {done} examples could not be read, and"
        " config.data.max_replaced_share is"
        f" {config.data.max_replaced_share:.1%}. The log names them; shards"
        " that are written stay."
    )


def _finish(
    folder: Path,
    wanted: Mapping[str, Any],
    paths: Sequence[Path],
    source: sources.Source,
    came_from: str,
) -> None:
  """Counts and names what there is, and writes the manifest."""
  counts = [embeddings.count_records(p) for p in paths]
  if not sum(counts):
    raise UserError("Not one example could be read; check the data.")
  missing = []
  for i, path in enumerate(paths):
    first = i * wanted["shard_size"]
    last = min(first + wanted["shard_size"], len(source))
    if counts[i] < last - first:
      missing += sorted(set(range(first, last)) - embeddings.keys(path))
  manifest = dict(wanted) | {
      "tower_from": came_from,
      "counts": counts,
      "skipped": len(missing),
      "skipped_keys": [source.key(i) for i in missing],
  }
  embeddings.write_json(folder / embeddings.MANIFEST, manifest)
  (folder / embeddings.STARTED).unlink()


def _together(what: str) -> None:
  """Waits for all processes."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)
