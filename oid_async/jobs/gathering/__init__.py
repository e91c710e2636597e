"""The tables of a query on this disk, every name resolved: what the selection reads."""
