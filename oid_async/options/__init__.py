"""The options of a query and of an export: one table, the readers of their values, their defaults."""
