"""Plans of runs on TPU slices: memory and step time, computed without a TPU."""
