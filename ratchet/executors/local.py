"""This machine: each run has one of its devices."""

from ratchet.experiments import seal
from ratchet.referee import devices, sandbox, trial


class Local:
    """A device of this machine."""

    def __init__(self, device=None):
        self.device = devices.choose(device)

    @property
    def option(self):
        """How a command line chooses this place."""
        return f" --device {self.device}" * (self.device != devices.choose())

    def conditions(self):
        """What must be the same when scores are compared, beside the arena and the budget."""
        seals = {"isolation": sandbox.best_level(), "machinery": seal.machinery()}
        return devices.describe(self.device) | seals

    def run(self, job):
        return trial.run(job._replace(device=self.device))

    def preflight(self, job):
        return trial.preflight(job._replace(device=self.device))
