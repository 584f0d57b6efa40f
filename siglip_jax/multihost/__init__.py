"""Multi-process runs: joining, messages, the watchdog and pre-emption."""
