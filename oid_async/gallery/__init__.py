"""The gallery of a saved folder in a browser: what it asks for, the data behind it, its server and its page."""
