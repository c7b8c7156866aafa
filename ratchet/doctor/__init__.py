"""What a run depends on, and what to do about each that is wrong."""
