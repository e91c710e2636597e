"""The embedded origin: a loopback server that serves the public buckets from a folder or a drawn look-alike."""
