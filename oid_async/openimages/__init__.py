"""What Open Images publishes: the catalogue, its tables and its classes."""
