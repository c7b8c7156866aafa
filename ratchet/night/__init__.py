"""Nights: an agent or the tuner has the ideas, which get their verdicts while nobody watches."""
