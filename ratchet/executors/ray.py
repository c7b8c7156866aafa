"""Ray: each run is a task on a node of the cluster."""

import os
import threading
import time
from collections import Counter
from contextlib import contextmanager

from ratchet.arena.files import ROOT, Refused
from ratchet.executors.base import LOOK_SECONDS, NODE_TRIES, Remote, imported
from ratchet.executors.travel import carry_out, conditions_here, read_arena
from ratchet.referee import supervisor

LONELY_SECONDS = 600  # without any node of the kind, after which a night gives up
STAYS = (
    ".git .venv runs ledger.jsonl benchmarks tests".split()
)  # of the repository, when its code travels


class RayCluster:
    """The Ray cluster that this machine belongs to. A node offers its GPUs or, if it has none, its
    CPU.
    """

    def __init__(self):
        os.environ.setdefault(
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0"
        )  # nodes use the Python that they have
        ray = imported("ray", "ray")
        code = {"working_dir": str(ROOT), "excludes": STAYS}
        code["env_vars"] = {
            "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"
        }  # a device has one name
        try:
            ray.init("auto", runtime_env=code, log_to_driver=False, ignore_reinit_error=True)
        except ConnectionError:
            raise Refused(
                "no Ray cluster is here: run `ray start --head`, or set RAY_ADDRESS"
            ) from None
        self.ray, self.lock, self.busy, self.known, self.arenas = (
            ray,
            threading.Lock(),
            Counter(),
            {},
            {},
        )
        self.kind, self.name = None, "ray"

    def nodes(self):
        """{id: how many runs at a time} of the nodes that are there now."""
        alive = [node for node in self.ray.nodes() if node["Alive"]]
        return {node["NodeID"]: int(node["Resources"].get("GPU", 0)) or 1 for node in alive}

    def options(self, node):
        """Of a task on that node."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        gpus = next(n["Resources"].get("GPU", 0) for n in self.ray.nodes() if n["NodeID"] == node)
        share = {"num_gpus": 1} if gpus else {"num_cpus": 1}
        where = NodeAffinitySchedulingStrategy(node, soft=False)
        return share | {"scheduling_strategy": where, "max_retries": 0}

    def conditions(self, node):
        """Of a node, asked once; None when it does not answer."""
        if node not in self.known:
            try:
                task = self.ray.remote(on_ray).options(**self.options(node)).remote(conditions_here)
                self.known[node] = self.ray.get(task, timeout=120)
            except (self.ray.exceptions.RayError, StopIteration):
                return None
        return self.known[node]

    def places(self, slots=None):
        """As many places as nodes of one kind offer: that of GPUs if there are any."""
        kinds = Counter()
        for node, number in self.nodes().items():
            if found := self.conditions(node):
                kinds[tuple(found.items())] += number
        if not kinds:
            raise Refused("no node of the Ray cluster answers: see `ray status`")
        best = max(
            kinds, key=lambda kind: (not dict(kind)["device"].startswith("cpu"), kinds[kind])
        )
        self.kind = dict(best)
        return [Remote(self) for _ in range(min(slots or kinds[best], kinds[best]))]

    @contextmanager
    def node(self):
        """A node of the kind that has room for one more run, held until the block ends. Raises
        Refused.
        """
        stop = time.monotonic() + LONELY_SECONDS
        while not (chosen := self.take()):
            if time.monotonic() > stop:
                raise Refused(f"no node with {self.kind['device']} is left in the Ray cluster")
            supervisor.sleep_or_cancel(LOOK_SECONDS)
        try:
            yield chosen
        finally:
            with self.lock:
                self.busy[chosen] -= 1

    def take(self):
        with self.lock:
            for node, number in self.nodes().items():
                if self.busy[node] < number and self.conditions(node) == self.kind:
                    self.busy[node] += 1
                    return node
        return None

    def files(self, arena):
        """The arena's files in the object store, put there once."""
        with self.lock:
            if arena.seal not in self.arenas:
                self.arenas[arena.seal] = self.ray.put(read_arena(arena))
            return self.arenas[arena.seal]

    def carry_out(self, verb, job):
        """Have a node do a job; when it dies, another one. Raises Refused."""
        ray, files = self.ray, [self.files(job.arena)]  # in a list it travels as a name
        for _ in range(NODE_TRIES):
            with self.node() as node:
                try:
                    task = ray.remote(on_ray).options(**self.options(node))
                    return self.result(task.remote(carry_out, verb, job, self.kind, files))
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from None
                except (ray.exceptions.RayError, StopIteration):
                    self.known.pop(node, None)
        raise Refused(f"{NODE_TRIES} nodes of the Ray cluster died under one run: see `ray status`")

    def result(self, task):
        try:
            while not self.ray.wait([task], timeout=LOOK_SECONDS)[0]:
                supervisor.sleep_or_cancel(0)
        except supervisor.Cancelled:
            self.ray.cancel(task, force=True)
            raise
        return self.ray.get(task)


def on_ray(function, *args):
    """The task: a function of this module, with the GPU that Ray gave it; files last, by their
    name.
    """
    import ray

    gpus = ray.get_gpu_ids()
    more = {"gpu": int(gpus[0])} if gpus else {}
    if args:
        *args, (files,) = args
        args.append(lambda: ray.get(files))
    return function(*args, **more)
