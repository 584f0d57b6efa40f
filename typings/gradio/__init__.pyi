"""An extra that only `siglip_jax.demo` needs, at run time."""

from typing import Any

def __getattr__(name: str) -> Any: ...
