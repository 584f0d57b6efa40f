"""Weights in and out: runs, big_vision's .npz and transformers' folders."""
