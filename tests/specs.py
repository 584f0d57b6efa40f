"""Changes of what a checkpoint says of its model and inputs."""

import json

from siglip_jax.weights import checksums


def change(run, step, function):
  """Calls a function with a checkpoint's spec; what it changes is saved."""
  folder = run / "checkpoints" / str(step)
  path, about_path = (folder / n / "metadata" for n in ("spec", "about"))
  spec, about = (json.loads(p.read_text()) for p in (path, about_path))
  function(spec)
  about["spec"] = checksums.of_json(spec)
  path.write_text(json.dumps(spec))
  about_path.write_text(json.dumps(about))


def forget_model(run, step):
  """Makes a checkpoint one of an earlier version, which named no model."""
  change(run, step, lambda spec: spec.pop("model", None))
