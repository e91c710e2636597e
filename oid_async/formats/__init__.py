"""A folder that a download has filled, turned into what trainers read. `table` has a line for each format."""
