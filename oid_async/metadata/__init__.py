"""The metadata cache: published tables on this disk, fetched once and converted to a form that is fast to query."""
