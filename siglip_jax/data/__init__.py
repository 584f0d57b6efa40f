"""Data sources, preprocessing and batches; only `prefetch` needs JAX."""
