"""The loader: threads or processes that fill batches in memory they share."""
