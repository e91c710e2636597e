"""The metadata cache: published tables on this disk, fetched once, kept in a form that answers at once."""
