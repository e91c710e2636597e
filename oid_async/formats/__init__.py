"""Export of a saved dataset into the formats that trainers read. `registry` has a line for each format."""
