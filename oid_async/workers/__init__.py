"""Worker processes: how many, how they are started, and the messages between them and the run."""
