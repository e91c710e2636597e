"""A selection as samples in a seeded order, epoch by epoch: what a trainer is fed with."""
