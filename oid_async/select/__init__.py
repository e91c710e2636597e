"""Selection: the query, the decision which images, their file names, the plan on disk."""
