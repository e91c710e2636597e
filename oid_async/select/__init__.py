"""What is wanted: the query as lazy frames, the file names, the plan on disk."""
