"""Ratchet judges changes of train.py, from one run to a whole night."""
