"""The image and text towers; the only package that imports Flax."""
