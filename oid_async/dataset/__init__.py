"""A finished SAVEPATH, read: its query, and its files held against the manifest."""
