"""One file a verb: download, plan, pack, export, verify, listings, resolve, demo; and what they share."""
