"""Moving bytes: the HTTP client, the hosts it speaks to, one image's transfer, the pipeline of many."""
