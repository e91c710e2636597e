"""Reading tables: CSV, gzipped CSV, Parquet and the cache's own form, and the check of their rows."""
