"""Weights in and out: big_vision's .npz and transformers' folders."""
