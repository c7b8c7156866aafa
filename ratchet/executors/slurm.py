"""Slurm: each run is a job."""

from ratchet import commits
from ratchet.arena.files import Refused
from ratchet.executors.base import LOOK_SECONDS, NODE_TRIES, Remote, imported
from ratchet.executors.travel import carry_out, conditions_here, read_arena
from ratchet.referee import supervisor

MARGIN_SECONDS = 3600  # of a Slurm job, beside its training and scoring


class SlurmCluster:
    """A Slurm cluster, through submitit: each run is a job with one GPU. SBATCH_* variables choose
    the rest.

    The repository and the arenas lie on a file system that all nodes see. Where there is no Slurm,
    submitit runs the jobs as processes of this machine.
    """

    def __init__(self, slots):
        submitit, self.slots = imported("submitit", "slurm"), slots
        self.executor = submitit.AutoExecutor(folder=commits.home() / "runs/.slurm")
        self.broken, self.kind, self.name = submitit.core.utils.UncompletedJobError, None, "slurm"

    def places(self):
        self.kind = self.submit(600, conditions_here)
        return [Remote(self) for _ in range(self.slots)]

    def carry_out(self, verb, job):
        return self.submit(job.clock_seconds + MARGIN_SECONDS, on_slurm, verb, job, self.kind)

    def submit(self, seconds, function, *args):
        """What a function gives on a node; when that dies, on another one. Raises Refused."""
        gpus = {"slurm_gpus_per_node": 1} if self.executor.cluster == "slurm" else {}
        self.executor.update_parameters(timeout_min=-(-int(seconds) // 60), **gpus)
        for _ in range(NODE_TRIES):
            job = self.executor.submit(function, *args)
            try:
                while not job.done():
                    supervisor.sleep_or_cancel(LOOK_SECONDS)
                return job.result()
            except supervisor.Cancelled:
                job.cancel()
                raise
            except self.broken as error:
                words = str(error).strip().splitlines()[-1]
        raise Refused(f"a Slurm job failed {NODE_TRIES} times ({words}): see runs/.slurm")


def on_slurm(verb, job, kind):
    return carry_out(verb, job, kind, lambda: read_arena(job.arena))
