"""Sources, preprocessing and batches; needs no JAX."""
