"""A download past one machine: publish the plan, have its parts carried out somewhere, and make one manifest of it."""
