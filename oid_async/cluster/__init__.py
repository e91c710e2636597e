"""A download past one machine: published plan, parts, records, engines, and the end that makes one manifest of them."""
