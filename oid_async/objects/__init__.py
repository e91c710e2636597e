"""Destinations as objects: put if absent, get, head, list, delete in a bucket or a local folder, through obstore."""
