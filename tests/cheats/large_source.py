"""Carries data in its own source (karpathy/autoresearch hole 10, PostTrainBench's substituted model)."""

PADDING = 300_000  # bytes of it
EXPECT = {"refused"}  # it doesn't run
