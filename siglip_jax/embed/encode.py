"""Encoding of a data set's images into shards of embeddings.

Each process encodes its own shards on its own devices. Any number of hosts can
share the work through one folder, and they wait for each other only before the
first shard and after the last. An interrupted run continues with the missing
shards.
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
from siglip_jax.data import kinds
from siglip_jax.data import ops
from siglip_jax.data import sources
from siglip_jax.data.preprocess import Preprocess
from siglip_jax.data.preprocess import parse
from siglip_jax.data.preprocess import render
from siglip_jax.data.replaced import replaced_too_many
from siglip_jax.embed import tower
from siglip_jax.embed import views
from siglip_jax.errors import UserError
from siglip_jax.models import two_towers
from siglip_jax.models.two_towers import TwoTowers
from siglip_jax.weights import tower_file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """The flags of `siglip_jax.embed`, by name, without --config and --out."""

  split: str = "train"
  model: str | None = None
  step: int | None = None
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
    if self.step is not None and self.model is None:
      raise UserError(
          "--step is of the run that --model names; got"
          f" --step={self.step} alone. The step of config.init's is"
          " config.init.img.step."
      )


def embed(
    config: ml_collections.ConfigDict, out: str | Path, options: Options
) -> dict[str, Any]:
  """Writes a folder of embeddings, or the missing part of it.

  Args:
    config: config with an image tower, and with `init` if `options.model` is
      None.
    out: folder to write, which all processes must see.
    options: values of the command's flags.

  Returns:
    The manifest.

  Raises:
    UserError: when the config, the tower or the data cannot be used, or the
      folder holds something else. Such a folder is left as it is.
  """
  config_check.validate(config)
  model = TwoTowers(**config.model.to_dict())
  if model.embedded:
    raise UserError(
        "To make embeddings a config needs its image tower; this one is of a"
        " run on embeddings: leave `embeddings` out of --config."
    )
  folder = Path(out).expanduser()
  data = config_sources.source_arguments(config)
  source = kinds.make(**{**data, "split": options.split})
  spec = _image_spec(config, options.crops)
  image, origin = tower.load(config, model, options.model, options.step)
  header = {
      "format": embeddings.FORMAT,
      "tower_digest": tower_file.digest(image),
      **tower.identity(config),
      "made_with": spec,
      "crops": options.crops,
      "seed": config.seed,
      "data": {k: data[k] for k in data if k not in ("split", "data_dir")},
      "split": options.split,
      "examples": len(source),
      "shard_size": options.shard_size,
      "dtype": _dtype(options.dtype or model.dtype),
      "dim": model.image_dim,
  }
  _prepare_folder(folder, header, image)
  count = -(-len(source) // options.shard_size)
  paths = embeddings.shard_paths(folder, count)
  if not (folder / embeddings.MANIFEST).exists():
    crops = views.Crops(
        source,
        Preprocess(spec),
        side=config.image_size,
        crops=options.crops,
        seed=config.seed,
    )
    encode = _encoder(model, image, crops, embeddings.DTYPES[header["dtype"]])
    _write_shards(config, options, crops, encode, paths)
    _barrier("embedded")
    if jax.process_index() == 0:
      _finish(folder, header, paths, source, origin)
    _barrier("finished")
  return embeddings.read_manifest(folder)


def _dtype(name: str) -> str:
  if name not in embeddings.DTYPES:
    raise UserError(
        f"Embeddings are kept as {' or '.join(embeddings.DTYPES)}; config.model"
        f" has {name}. Give --dtype."
    )
  return name


def _image_spec(config, crops: int) -> str:
  """Returns the image preprocessing to run."""
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
  """Returns the image part of a preprocessing string, up to value_range.

  Raises:
    UserError: when the string has no value_range.
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


def _prepare_folder(
    folder: Path, header: Mapping[str, Any], image: Mapping
) -> None:
  """Checks that the folder is new or this job's; writes its first files."""
  started = folder / embeddings.STARTED
  try:
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(p.name for p in folder.iterdir())
  except OSError as e:
    raise UserError(
        f"--out must be a folder that can be written to: {folder}"
        f" ({e.strerror})."
    ) from None
  known = [p for p in (folder / embeddings.MANIFEST, started) if p.exists()]
  if known:
    _check_same(known[0], header)
  elif any(not n.startswith("started.") for n in names):
    raise UserError(
        f"--out must be a new folder, or one that this command began: {folder}"
        f" holds {names[0]} and no {embeddings.STARTED}. Nothing was changed;"
        " give another --out."
    )
  _barrier("checked")
  if jax.process_index() == 0 and not known:
    embeddings.write_json(started, header)
  if jax.process_index() == 0 and not (folder / embeddings.TOWER).exists():
    tower_file.write(folder / embeddings.TOWER, image)
  _barrier("begun")


def _check_same(path: Path, header: Mapping[str, Any]) -> None:
  stored = embeddings.read_json(path)
  for key, value in header.items():
    if stored[key] != value:
      raise UserError(
          f"{path.parent} was begun with {key} = {stored[key]!r}; now it is"
          f" {value!r}. Nothing was changed: ask for what is there, or give"
          " another --out."
      )


def _encoder(
    model: TwoTowers, image: Mapping, crops: views.Crops, dtype: np.dtype
) -> Callable[[np.ndarray], jax.Array]:
  """Returns a function that encodes images on this process's devices."""
  mesh = sharding.make_mesh(jax.local_devices())
  params = jax.device_put(image, sharding.replicated(mesh))
  rows = sharding.batch_sharding(mesh)

  def encode(params, images):
    scaled = two_towers.scale(images, crops.value_range)
    return model.encode_image(params, scaled).astype(dtype)

  compiled = jax.jit(sharding.on_mesh(mesh, encode), out_shardings=rows)
  return lambda images: compiled(params, jax.device_put(images, rows))


def _write_shards(
    config,
    options: Options,
    crops: views.Crops,
    encode: Callable[[np.ndarray], jax.Array],
    paths: Sequence[Path],
) -> None:
  """Writes this process's missing shards."""
  parts = _missing(paths, options.shard_size, len(crops.source))
  size = _batch_size(options, crops.count)
  options_of_loader = config_sources.loader_options(config)
  loader = {k: options_of_loader[k] for k in ("num_threads", "num_workers")}
  batches = views.batches(crops, parts.values(), size, **loader)
  results = _encode_ahead(batches, encode)
  total = sum(map(len, parts.values()))
  done, skipped = 0, 0
  with progress.Pace(
      "examples", total=total, show=jax.process_index() == 0
  ) as pace:
    for path, part in parts.items():
      records = []
      for batch, z in itertools.islice(results, -(-len(part) // size)):
        records += _packed(batch, z, crops.count)
        pace.update(done + len(records))
      done += len(part)
      skipped += len(part) - len(records)
      _check_skipped(skipped, done, config)
      embeddings.write_shard(path, records)
      pace.update(done, f"{path.stem} is written")


def _missing(
    paths: Sequence[Path], size: int, total: int
) -> dict[Path, np.ndarray]:
  """Returns this process's missing shards and their examples' indices."""
  mine = range(jax.process_index(), len(paths), jax.process_count())
  return {
      paths[i]: np.arange(i * size, min((i + 1) * size, total))
      for i in mine
      if not paths[i].exists()
  }


def _batch_size(options: Options, crops: int) -> int:
  """Returns the number of examples per batch.

  It is the number of images over the crops, rounded up to a multiple of the
  devices.
  """
  devices = jax.local_device_count()
  images = min(options.batch_size, options.shard_size * crops)
  return -(-images // (crops * devices)) * devices


def _encode_ahead(
    batches: Iterator[dict], encode: Callable[[np.ndarray], jax.Array]
) -> Iterator[tuple[dict, np.ndarray]]:
  """Yields batches with their embeddings while the next one is encoded."""
  previous = None
  for batch in batches:
    current = batch, encode(batch["images"])
    if previous is not None:
      yield previous[0], np.asarray(jax.device_get(previous[1]))
    previous = current
  if previous is not None:
    yield previous[0], np.asarray(jax.device_get(previous[1]))


def _packed(batch: Mapping, z: np.ndarray, crops: int) -> list[bytes]:
  """Returns a batch's packed records, without padding and unreadable ones."""
  z = z.reshape(-1, crops, z.shape[-1])
  return [
      embeddings.pack(int(key), z[i], record)
      for i, (key, record) in enumerate(
          zip(batch["keys"], batch["records"], strict=True)
      )
      if key >= 0
  ]


def _check_skipped(skipped: int, done: int, config) -> None:
  limit = config.data.max_replaced_share
  if replaced_too_many(skipped, done, limit):
    raise UserError(
        f"{skipped} of {done} examples could not be read, and"
        " config.data.max_replaced_share is"
        f" {limit:.1%}. The log names them; shards"
        " that are written stay."
    )


def _finish(
    folder: Path,
    header: Mapping[str, Any],
    paths: Sequence[Path],
    source: sources.Source,
    origin: str,
) -> None:
  """Counts the records, lists the missing ones and writes the manifest."""
  counts = [embeddings.count_records(p) for p in paths]
  if not sum(counts):
    raise UserError("Not one example could be read; check the data.")
  missing = []
  for i, path in enumerate(paths):
    first = i * header["shard_size"]
    last = min(first + header["shard_size"], len(source))
    if counts[i] < last - first:
      missing += sorted(set(range(first, last)) - embeddings.keys(path))
  manifest = dict(header) | {
      "tower_from": origin,
      "counts": counts,
      "skipped": len(missing),
      "skipped_keys": [source.key(i) for i in missing],
  }
  embeddings.write_json(folder / embeddings.MANIFEST, manifest)
  (folder / embeddings.STARTED).unlink()


def _barrier(name: str) -> None:
  """Waits for all processes."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)
