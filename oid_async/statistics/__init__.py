"""Statistics of a saved folder, of a query or of an export: counted lazily by Polars, returned as plain values."""
