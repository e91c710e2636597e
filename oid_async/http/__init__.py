"""HTTP: the client, its connections, the state of each host, the address guard, retries."""
