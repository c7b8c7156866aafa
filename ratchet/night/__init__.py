"""Who has ideas while nobody watches, and how they get their verdicts."""
