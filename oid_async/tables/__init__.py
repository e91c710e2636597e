"""Tables: CSV, gzipped CSV, Parquet and the cache's own form, read lazily; the rules for their rows."""
