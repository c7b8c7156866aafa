"""The executors by name."""

import itertools

from ratchet.arena.files import Refused
from ratchet.executors.local import Local
from ratchet.executors.ray import RayCluster
from ratchet.executors.slurm import SlurmCluster
from ratchet.referee.devices.choice import describe_device
from ratchet.referee.devices.lock import share_a_part


def places(on=None, names=None, slots=None):
    """The places that runs can execute in, of one kind: [Local] by default. Raises Refused.

    on: None, "ray" or "slurm". names: devices of this machine, by default the best. slots: jobs at
    a time.
    """
    if on not in (None, "ray", "slurm"):
        raise Refused(f"--on {on} is not known: say ray or slurm, or leave it out for this machine")
    if on and names:
        raise Refused(f"--on {on} chooses devices itself: leave out --device and --devices")
    if on:
        return RayCluster().places(slots) if on == "ray" else SlurmCluster(slots or 1).places()
    found = [Local(name) for name in names or [None]]
    if len({place.device for place in found}) < len(found):
        raise Refused(f"a device is named twice in {', '.join(names)}: one run at a time has it")
    if any(share_a_part(a.device, b.device) for a, b in itertools.combinations(found, 2)):
        raise Refused(
            f"{', '.join(names)} share cores: choose devices that don't, like cpu:0/2,cpu:1/2"
        )
    if len(kinds := {describe_device(place.device)["device"] for place in found}) > 1:
        raise Refused(
            f"choose devices of one kind, others can't be compared: {'; '.join(sorted(kinds))}"
        )
    return found
