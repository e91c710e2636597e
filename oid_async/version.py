"""The version, in a room of its own so that every other one may read it."""

__version__ = "0.2.0"
