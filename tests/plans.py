"""Plans of a run on a TPU slice, and a config that is quick to plan."""

from siglip_jax.plan import estimate

GIB = 2**30

TINY = """
import importlib.util
def get_config(arg=None):
  spec = importlib.util.spec_from_file_location("b16", "configs/b16_4k.py")
  b16 = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(b16)
  c = b16.get_config()
  c.batch_size, c.microbatch, c.model.scan = 64, 16, True
  c.image_size = 32
  sizes = dict(width=128, depth=2, mlp_dim=256, num_heads=2)
  c.model.image = dict(patch=16, **sizes)
  c.model.text = dict(vocab_size=512, **sizes)
  c.model.out_dim = (None, 128)
  return c
"""


def plan(**changes) -> estimate.Plan:
  """A plan of a batch of 4096 on four chips that fits, but for the changes."""
  given = dict(
      topology="v4:2x2x1",
      chips=4,
      global_batch=4096,
      microbatch=0,
      remat="none",
      mesh=dict(data=4, fsdp=1, tensor=1),
      fits=True,
      peak_hbm_bytes=10 * GIB,
      hbm_bytes=30 * GIB,
      parts=dict(parameters=GIB, optimizer=2 * GIB, inputs=GIB),
      step_seconds_estimate=1.0,
  )
  return estimate.Plan(**given | changes)
