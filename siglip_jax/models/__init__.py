"""The towers: the only place that knows Flax."""
