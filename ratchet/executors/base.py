"""The pool: where runs execute, on devices of this machine, of a Ray cluster or of a Slurm cluster.

A place takes one run at a time: run(job) gives its facts, preflight(job) whether it comes to its
first step. What can be compared is the kind of device, which conditions() tells; places of one pool
are of one kind. Only the machine that `ratchet` was started on writes the ledger: a run that a
dying node took along was never there, and is done again, with the same seed, elsewhere.
"""

import importlib

from ratchet.arena.files import Refused
from ratchet.executors.travel import unpack

NODE_TRIES = 5  # nodes that may die under a run until it is given up
LOOK_SECONDS = 1  # between two looks at a cluster, and at whether the work is to be stopped


class Remote:
    """One run at a time, on whichever node of a cluster is free."""

    def __init__(self, cluster):
        self.cluster, self.option = cluster, f" --on {cluster.name}"

    def conditions(self):
        return self.cluster.kind

    def run(self, job):
        return unpack(*self.cluster.carry_out("run", job), job.target)

    def preflight(self, job):
        return unpack(*self.cluster.carry_out("preflight", job), job.target)


def imported(name, extra):
    """A library that only one kind of cluster needs. Raises Refused."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Refused(f"{name} is not installed: run `uv sync --extra {extra}`") from None
