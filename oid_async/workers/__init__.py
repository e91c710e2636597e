"""Worker processes: how many, how they are started, what they and the run say to each other."""
