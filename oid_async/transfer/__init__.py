"""Transferring images: scheduler, fetcher, collector, and the pipeline that joins them."""
