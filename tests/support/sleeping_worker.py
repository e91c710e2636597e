"""A program in a worker's place that never gets ready."""

import time

if __name__ == "__main__":
    time.sleep(120)
