"""Blocks of samples on a fast local disk, fetched before they are read."""

from siglip_jax.data.blocks.ahead import ReadAhead as ReadAhead
from siglip_jax.data.blocks.folder import Folder as Folder
from siglip_jax.data.blocks.starting import check as check
from siglip_jax.data.blocks.starting import start as start
