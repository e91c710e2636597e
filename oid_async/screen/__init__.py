"""What leaves for a terminal, a pipe or a notebook: progress, messages, results."""
