"""`python -m oid_async` is the same program as `oid-async`."""

import sys

from oid_async.cli import main

if __name__ == "__main__":
    sys.exit(main())
