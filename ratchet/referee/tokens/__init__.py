"""How a run gets its training tokens: as a file of its own, or as a stream that ends."""
