"""Numbers that a run gathers in fixed memory: histograms of times and sizes, series over time. Plain values alone."""
