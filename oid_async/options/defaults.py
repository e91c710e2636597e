"""The defaults that the options of a transfer and the HTTP client share: one place for each number."""

RETRIES = 4
TIMEOUT_S = 30.0
MAX_WAIT_S = 900.0
# A host that has not answered once is waited for no longer than this, once nothing else is left to do: it may start
# with this run, but most likely there is none.
UNANSWERED_S = 60.0
MAX_IMAGE_BYTES = 64 << 20
PERIOD_S = 1.0
# Flickr's own published advice is one request a second per key for its API; its static hosts publish none. Ten a second
# is what the tool that this one replaces was used with, and is polite for a site that serves these photos for nothing.
FLICKR_RATE = 10.0
