"""The pool: where runs execute, on devices of this machine, of a Ray cluster or of a Slurm cluster.

A place takes one run at a time: run(job) gives its facts, preflight(job) whether it comes to its first step.
What can be compared is the kind of device, which conditions() tells; places of one pool are of one kind. Only
the machine that `ratchet` was started on writes the ledger: a run that a dying node took along was never
there, and is done again, with the same seed, elsewhere.
"""

import importlib
import itertools
import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from ratchet import devices, guard, referee, repository, sandbox, sources
from ratchet.sources import Refused

NODE_TRIES = 5  # nodes that may die under a run until it is given up
LOOK_SECONDS = 1  # between two looks at a cluster, and at whether the work is to be stopped
LONELY_SECONDS = 600  # without any node of the kind, after which a night gives up
TRAVEL_BYTES = 2**28  # larger files that a run leaves stay behind: the weights of a large model
STAYS = ".git .venv runs ledger.jsonl benchmarks tests".split()  # of the repository, when its code travels
MARGIN_SECONDS = 3600  # of a Slurm job, beside its training and scoring


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
        seals = {"isolation": sandbox.best_level(), "machinery": sources.machinery()}
        return devices.describe(self.device) | seals

    def run(self, job):
        return referee.run(job._replace(device=self.device))

    def preflight(self, job):
        return referee.preflight(job._replace(device=self.device))


def places(on=None, names=None, slots=None):
    """The places that runs can execute in, of one kind: [Local] by default. Raises Refused.

    on: None, "ray" or "slurm". names: devices of this machine, by default the best. slots: jobs at a time.
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
    if any(devices.overlap(a.device, b.device) for a, b in itertools.combinations(found, 2)):
        raise Refused(f"{', '.join(names)} share cores: choose devices that don't, like cpu:0/2,cpu:1/2")
    if len(kinds := {devices.describe(place.device)["device"] for place in found}) > 1:
        raise Refused(f"choose devices of one kind, others can't be compared: {'; '.join(sorted(kinds))}")
    return found


# ----------------------------------------------------------------------------------------------------
# Travel: what goes to a node, what comes back


def carry_out(verb, job, kind, arena_files, gpu=None):
    """On a node: do a job there. Returns (what a place's `verb` gives, {name: bytes} of what it left)."""
    place = place_here(gpu)
    if (found := place.conditions()) != kind:
        raise Refused(f"the job was given {found}, its scores are to be compared with those of {kind}")
    compiled = devices.work_folder() / ".compiled" / sources.sha256(str(job.compiled).encode())[:12]
    with tempfile.TemporaryDirectory() as folder:
        arena, target = at_hand(job.arena, arena_files), Path(folder) / "run"
        found = getattr(place, verb)(job._replace(arena=arena, target=target, compiled=compiled))
        files = target.iterdir() if target.exists() else ()
        return found, {p.name: p.read_bytes() for p in files if p.stat().st_size <= TRAVEL_BYTES}


def at_hand(arena, files):
    """The arena as this node has it, under the same seal; else files(), {name: bytes}, are written."""
    shipped = devices.work_folder() / ".shipped" / arena.seal / arena.name
    for folder in (devices.cache_folder() / arena.name, shipped):
        path = folder / "arena.json"
        if path.exists() and sources.sha256(path.read_bytes())[:12] == arena.seal:
            return referee.load_arena(arena.name, folder)
    part = shipped.with_name(f"{arena.name}.{time.monotonic_ns()}.part")
    part.mkdir(parents=True)
    for name, data in files().items():
        (part / name).write_bytes(data)
    try:
        part.rename(shipped)
    except OSError:  # another run brought it
        shutil.rmtree(part)
    return referee.load_arena(arena.name, shipped)


def read_arena(arena):
    """{name: bytes} of an arena's files."""
    return {path.name: path.read_bytes() for path in arena.folder.iterdir() if path.name[0] != "."}


def unpack(found, files, target):
    """What a run left, into its folder on this machine, all at once; returns what was found."""
    if files:
        with referee.all_at_once(target) as part:
            for name, data in files.items():
                (part / Path(name).name).write_bytes(data)
    return found


def place_here(gpu):
    """The place of a node on which it was given that GPU, or none."""
    return Local(f"cuda:{gpu}" if gpu is not None else None)


def conditions_here(gpu=None):
    """Local.conditions() of a node."""
    return place_here(gpu).conditions()


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


# ----------------------------------------------------------------------------------------------------
# Ray


class RayCluster:
    """The Ray cluster that this machine belongs to. A node offers its GPUs or, if it has none, its CPU."""

    def __init__(self):
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # nodes use the Python that they have
        ray = imported("ray", "ray")
        code = {"working_dir": str(sources.ROOT), "excludes": STAYS}
        code["env_vars"] = {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}  # a device has one name
        try:
            ray.init("auto", runtime_env=code, log_to_driver=False, ignore_reinit_error=True)
        except ConnectionError:
            raise Refused("no Ray cluster is here: run `ray start --head`, or set RAY_ADDRESS") from None
        self.ray, self.lock, self.busy, self.known, self.arenas = ray, threading.Lock(), Counter(), {}, {}
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
        best = max(kinds, key=lambda kind: (not dict(kind)["device"].startswith("cpu"), kinds[kind]))
        self.kind = dict(best)
        return [Remote(self) for _ in range(min(slots or kinds[best], kinds[best]))]

    @contextmanager
    def node(self):
        """A node of the kind that has room for one more run, held until the block ends. Raises Refused."""
        stop = time.monotonic() + LONELY_SECONDS
        while not (chosen := self.take()):
            if time.monotonic() > stop:
                raise Refused(f"no node with {self.kind['device']} is left in the Ray cluster")
            guard.pause(LOOK_SECONDS)
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
                guard.pause(0)
        except guard.Cancelled:
            self.ray.cancel(task, force=True)
            raise
        return self.ray.get(task)


def on_ray(function, *args):
    """The task: a function of this module, with the GPU that Ray gave it; files last, by their name."""
    import ray

    gpus = ray.get_gpu_ids()
    more = {"gpu": int(gpus[0])} if gpus else {}
    if args:
        *args, (files,) = args
        args.append(lambda: ray.get(files))
    return function(*args, **more)


# ----------------------------------------------------------------------------------------------------
# Slurm


class SlurmCluster:
    """A Slurm cluster, through submitit: each run is a job with one GPU. SBATCH_* variables choose the rest.

    The repository and the arenas lie on a file system that all nodes see. Where there is no Slurm, submitit
    runs the jobs as processes of this machine.
    """

    def __init__(self, slots):
        submitit, self.slots = imported("submitit", "slurm"), slots
        self.executor = submitit.AutoExecutor(folder=repository.home() / "runs/.slurm")
        self.broken, self.kind, self.name = submitit.core.utils.UncompletedJobError, None, "slurm"

    def places(self):
        self.kind = self.submit(600, conditions_here)
        return [Remote(self) for _ in range(self.slots)]

    def carry_out(self, verb, job):
        return self.submit(job.seconds + MARGIN_SECONDS, on_slurm, verb, job, self.kind)

    def submit(self, seconds, function, *args):
        """What a function gives on a node; when that dies, on another one. Raises Refused."""
        gpus = {"slurm_gpus_per_node": 1} if self.executor.cluster == "slurm" else {}
        self.executor.update_parameters(timeout_min=-(-int(seconds) // 60), **gpus)
        for _ in range(NODE_TRIES):
            job = self.executor.submit(function, *args)
            try:
                while not job.done():
                    guard.pause(LOOK_SECONDS)
                return job.result()
            except guard.Cancelled:
                job.cancel()
                raise
            except self.broken as error:
                words = str(error).strip().splitlines()[-1]
        raise Refused(f"a Slurm job failed {NODE_TRIES} times ({words}): see runs/.slurm")


def on_slurm(verb, job, kind):
    return carry_out(verb, job, kind, lambda: read_arena(job.arena))


def imported(name, extra):
    """A library that only one kind of cluster needs. Raises Refused."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Refused(f"{name} is not installed: run `uv sync --extra {extra}`") from None
