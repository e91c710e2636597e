"""The Python functions, which `oid_async` offers by name.

All keywords, named like the long options of the command line. Nothing here prints, starts processes unless `processes`
asks for them, installs signal handlers or keeps state between calls; everything may be cancelled at any await.
"""
