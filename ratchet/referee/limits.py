"""Limits of a run: seconds, bytes, processes."""

READY_SECONDS = (
    20 * 60
)  # to import, compile and rehearse, which counts against no budget; longer ends a run
LATE, LATE_SECONDS = (
    0.02,
    1.0,
)  # share of the budget that a contestant may be late, at least these seconds
SCORE_SECONDS, SCORE_SHARE = (
    120,
    0.5,
)  # longest scoring: seconds, and this share of the arena's budget
WEIGHT_BYTES = 2**35
COPY_SECONDS, COPY_BYTES, COPY_DEPTH = 60, 2**31, 9  # of a compiler's cache that is kept
UNUSED_SECONDS = 86400  # after which a kept cache goes
ARTIFACTS = {"model.safetensors": WEIGHT_BYTES, "config.json": 2**20, "curve.jsonl": 2**25}
TAIL_LINES = 15  # of a log, kept in the ledger
LOG_BYTES = 2**22  # a contestant that prints more is stopped
MEMORY_SHARE = 0.9  # of the memory that is free when it starts
MOST_PROCESSES = 500
LEAST_DISK_BYTES = 2**28  # free space at which a contestant that fills the disk is stopped
MESSAGE_BYTES = 2**16
FOREIGN_CPU = {
    "cpu": 0.15,
    "cuda": 0.5,
    "mps": 0.5,
}  # share of its cores that others may use in a run
POLL_SECONDS = 0.05
