"""One file a verb: download, plan, pack, export, verify, listings, demo; and what they share."""
