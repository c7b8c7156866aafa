"""Several agents in one night: whose turn it is, how they compare."""
