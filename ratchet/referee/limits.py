"""The limits that the referee sets a run: seconds, bytes, counts.

The budget itself is of the arena (arena/definition.py) or of `--budget`. A run ends its training by
itself (arena/run.py); trial.py ends one that does not.
"""

from ratchet.arena import budget
from ratchet.arena.definition import Arena

# Seconds before the clock starts
# to start, import, compile, rehearse, all of it free; Run.rehearse() keeps to the same number
READY_SECONDS = budget.REHEARSAL_SECONDS

# Seconds on the clock
TOKENS_SHARE = 10.0  # a budget of tokens or FLOPs may take so many times the arena's seconds
LATE_SHARE = 0.02  # of the budget, by which its weights may come late
LATE_SECONDS = 1.0  # or by so much, if that is more
LAST_STEPS = 4  # after its last batch it may take as long as so many steps, saving apart
WAIT_SHARE = 1.1  # of the budget, for which its weights are waited for before it is killed
WAIT_SECONDS = 10  # and so much besides

# Seconds after the clock has stopped
EXIT_SECONDS = 5  # from the end of its messages to its own, for its exit code to be known
SCORE_SECONDS = 120  # to score one split
SCORE_SHARE = 0.5  # and this share of the arena's budget besides
SCORE_LOADS = 3  # and so many times what its weights may take to load
SCORE_SLOWNESS = 2.0  # and so many times what it took to train on as many tokens, as it says,
MOST_SCORE_SHARE = 4.0  # but at most this share of the arena's budget
DECODING_SECONDS = 240  # and so much besides where it is timed while it decodes

# Bytes
SOURCE_BYTES = 2**16  # of train.py: a larger one has data in it
WEIGHT_BYTES = 2**35  # of its weights, or of any file that it writes, at most
LEAST_WEIGHT_BYTES = 2**30  # that are allowed in a small arena, too
WEIGHT_BYTES_PER_TOKEN = 16  # of training text
HEADER_BYTES = 2**16  # of its weights' names and shapes
HEADER_SHARE = 64  # and one for so many bytes of weights
ARTIFACT_BYTES = {
    "config.json": 2**16,  # a larger one has weights in it that nobody counts
    "curve.jsonl": 2**25,
}  # of what it may leave beside its weights: nothing else is kept
LOG_BYTES = 2**22  # of what it prints
MESSAGE_BYTES = 2**16  # of what it tells the referee at a time
MEMORY_SHARE = 0.9  # of the memory that is free when it starts
TOKENS_MEMORY_SHARE = 0.25  # of the free memory, for its copy of the training tokens
LEAST_DISK_BYTES = 2**28  # that it must leave free on the disk

# Counts, shares of other things
MOST_PROCESSES = 500  # at a time; the sandbox's own limit counts threads, too
LEAST_STEPS = 4  # in a budget of tokens or FLOPs: fewer have no pace
MOST_STEP_ROWS = 2**17  # that a step may have in such a budget
TOLD_FLOPS_SHARE = 0.99  # of what its model is seen to take
TAIL_LINES = 15  # of its log, in the ledger
FOREIGN_CPU_SHARE = {"cpu": 0.15, "cuda": 0.5, "mps": 0.5}  # of its cores, for other programs

# The compiler's cache that is kept for later runs
COPY_SECONDS = 60
COPY_BYTES = 2**31
COPY_DEPTH = 9  # of its folders
UNUSED_SECONDS = 24 * 3600  # after which it goes, as copies of the libraries do

POLL_SECONDS = 0.05  # between two looks at a process
CHECK_SECONDS = 4 * POLL_SECONDS  # between two looks at all that it takes


def weight_bytes(arena: Arena) -> int:
    """How large the weights of a model may be in an arena: as its text can fill."""
    of_text = max(LEAST_WEIGHT_BYTES, WEIGHT_BYTES_PER_TOKEN * arena.train_tokens)
    return min(WEIGHT_BYTES, of_text)
