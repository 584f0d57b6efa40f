"""Files on disks, in buckets and on web servers, read by ranges."""

from siglip_jax.data.remote.expanding import expand as expand
from siglip_jax.data.remote.ranges import Ranges as Ranges
from siglip_jax.data.remote.retries import Retries as Retries
from siglip_jax.data.remote.small import exists as exists
from siglip_jax.data.remote.small import read_small as read_small
from siglip_jax.data.remote.small import write_small as write_small
from siglip_jax.data.remote.stats import Stat as Stat
from siglip_jax.data.remote.stats import stat as stat
from siglip_jax.files import is_remote as is_remote
