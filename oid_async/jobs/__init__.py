"""A file or a folder for each verb: download, plan, repeat, export, verify, resolve ...; and what they share."""
