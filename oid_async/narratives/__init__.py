"""Narratives beyond their captions: traces and recordings of the saved images."""
