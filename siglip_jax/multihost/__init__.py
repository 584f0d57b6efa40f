"""Runs of several processes: joining, messages, watching, pre-emption."""
