"""Tar shards, as img2dataset and webdataset write them, by random access."""
