"""What a user may ask for: the options of a query and of an export, and how their values are read."""
