"""Readers of the ledger: a page, a picture, a server, Weights & Biases."""
