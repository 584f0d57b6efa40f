"""Data in tables: Parquet, CSV and JSON lines, and choices among their rows."""
