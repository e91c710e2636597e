"""Masks from remote archives: only the wanted members are fetched, by Range requests."""
