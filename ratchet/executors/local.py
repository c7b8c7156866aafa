"""This machine: each run has one of its devices."""

from ratchet.experiments import seal
from ratchet.referee import sandbox, trial
from ratchet.referee.devices.choice import choose_device, describe_device


class Local:
    """A device of this machine."""

    def __init__(self, device=None):
        self.device = choose_device(device)

    @property
    def option(self):
        """How a command line chooses this place."""
        return f" --device {self.device}" * (self.device != choose_device())

    def conditions(self):
        """What must be the same when scores are compared, beside the arena and the budget."""
        seals = {"isolation": sandbox.best_level(), "machinery": seal.hash_sealed_files()}
        return describe_device(self.device) | seals

    def run(self, job):
        return trial.run_trial(job._replace(device=self.device))

    def preflight(self, job):
        return trial.preflight(job._replace(device=self.device))
