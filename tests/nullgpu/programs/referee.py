"""referee.py CONTESTANT FOLDER DEVICE BUDGET: one run under the referee; prints its record."""

import json
import sys
from pathlib import Path

import handed_on  # noqa: F401

from ratchet.arena.definition import find_arena
from ratchet.experiments import sources
from ratchet.referee import trial
from ratchet.referee.job import Job

contestant, folder, device, budget = sys.argv[1:]
source = sources.read_source(Path(contestant), files=True)
folders = Path(folder, "run"), Path(folder, "compiled")
job = Job(source, 7, budget, find_arena("tiny"), *folders, device=device)
print(json.dumps(trial.run_trial(job)))
