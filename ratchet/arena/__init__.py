"""What a contestant and its scorer run: text, tokens, rows, the clock, the score. Sealed."""
