"""Runs that are drawn from a normal distribution, at no cost."""

import re

import numpy as np

from ratchet.referee.devices.choice import describe_device

SIGMA = 0.01
SPEED_SIGMA = 0.03  # log2 of tokens a second


class Runs:
    """Stands in for referee.run: a score from the source and the seed; counts and remembers jobs.

    Half of the variance between runs comes from the seed, whatever the source.

    The numbers that begin a line of the source with QUALITY or GAIN are its quality, those with LUCK
    count in a search alone. Those with SPEED are log2 of how many times as fast it decodes.
    """

    def __init__(self):
        self.jobs, self.shared, self.stop_at, self.order = [], 0, None, np.random.default_rng(1)
        self.of_split, self.sigma = {"probes": {}}, SIGMA
        self.of_run = dict  # makes further facts of a run
        self.speeds = np.random.default_rng(2)

    def __call__(self, job):
        if len(self.jobs) == self.stop_at:
            self.stop_at = None
            raise KeyboardInterrupt
        self.jobs.append(job)
        text = job.source.text.decode()
        status = (re.findall('STATUS = "(.*)"', text) or ["ok"])[0]
        names = "QUALITY|GAIN_.|LUCK_." if "-search-" in str(job.target) else "QUALITY|GAIN_."
        quality = sum(map(float, re.findall(f"^(?:{names}) = (.*)", text, re.M)))
        luck = np.random.default_rng(job.seed).normal() + self.order.normal()
        bpb = 2 - quality + self.sigma * luck / np.sqrt(2)
        facts = describe_device(job.device) | job.source.describe_source()
        facts |= {
            "seed": job.seed,
            "budget": job.budget,
            "status": status,
            "reason": f"it was {status}",
        }
        facts |= {
            "shared": self.shared > 0,
            "foreign_cpu": 0.4,
            "isolation": "none",
            "tail": ["last words"],
        }
        facts |= {"tokens": 12345, "flops_per_token": 100.0, "seconds": {"train": 1.0}}
        facts |= {
            "params": 3000,
            "lookup": 1000,
            "peak_memory_mb": 512,
            "steps": 10,
            "mfu_percent": 5.0,
        }
        speed = sum(map(float, re.findall("^SPEED_. = (.*)", text, re.M)))
        if "user_tps" in job.asked_measures:
            facts["user_tps"] = 300 * 2 ** (speed + SPEED_SIGMA * self.speeds.normal())
        facts |= self.of_run()
        self.shared -= 1
        if status == "ok":
            for split in job.splits:
                facts[split] = {"nats": bpb * np.log(2) * 1000, "bytes": 1000} | self.of_split
        return facts
