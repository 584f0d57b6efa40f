"""Plans of a run on any TPU slice, made without a TPU."""
