"""Preflight: checks of a run on all its hosts, before anything is compiled."""
