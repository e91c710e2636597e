"""The embedded origin: a loopback server that plays the public buckets from a folder or a drawn look-alike."""
