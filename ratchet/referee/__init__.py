"""One run of one contestant, under the referee's clock. Sealed."""
