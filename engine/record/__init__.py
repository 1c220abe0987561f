"""From frames to journal to Parquet sessions, and the checks on them."""
