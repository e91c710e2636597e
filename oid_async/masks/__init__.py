"""Masks out of remote archives: only the members that are wanted, by Range."""
