"""HTML files that open offline: statistics and the report of a run. They are made of plain values alone."""
