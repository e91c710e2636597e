"""`python -m oid_async` is the same program as `oid-async`."""

from oid_async.cli import run_program

if __name__ == "__main__":
    run_program()
