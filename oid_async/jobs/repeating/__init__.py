"""The same set again: from a folder, its query.json, or a manifest."""
