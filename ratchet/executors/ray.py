"""Runs on the nodes of the Ray cluster that this machine belongs to."""

import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from ratchet.arena.definition import Arena
from ratchet.arena.files import ROOT, Refused, read_untrusted
from ratchet.executors.base import (
    Conditions,
    Executor,
    NodeDied,
    Outcome,
    Task,
    Tell,
    Verb,
    import_extra,
    refuse_devices,
    say_nothing,
)
from ratchet.executors.travel import Files, execute_here, local_executor, read_arena, unpack_files
from ratchet.referee.job import Job

LONELY_SECONDS = 600  # without any node of the kind, after which a job is given up
ANSWER_SECONDS = 120  # for all nodes to say what they are, before the first run
AGAIN_SECONDS = 300  # until a node that does not say it, or failed, is asked again
TRAVEL_BYTES = 2**28  # larger files that a run leaves stay behind: the weights of a large model
STAYS = ".git .venv runs ledger.jsonl benchmarks tests".split()  # when the code travels


class RayTask(Task):
    """A job that waits for a node with room, then runs there."""

    def __init__(self, executor: "RayExecutor", verb: Verb, job: Job) -> None:
        self.executor, self.verb, self.job = executor, verb, job
        self.node, self.reference = None, None
        self.deadline = time.monotonic() + LONELY_SECONDS

    def is_done(self) -> bool:
        if not self.reference and not self.start_if_free():
            return False
        return bool(self.executor.ray.wait([self.reference], timeout=0)[0])

    def start_if_free(self) -> bool:
        """Start it if a node has room. Raises Refused when none has for long."""
        kind = self.executor.kind
        self.node = self.executor.take_node()
        if not self.node:
            if time.monotonic() > self.deadline:
                raise Refused(f"no node with {kind['device']} is left in the Ray cluster")
            return False
        files = [self.executor.store_arena(self.job.arena)]  # in a list it travels as a name
        call = execute_on_node, self.verb, self.job, kind, files
        self.reference = self.executor.call_node(self.node, *call)
        return True

    def outcome(self) -> Outcome:
        errors = self.executor.ray.exceptions
        try:
            outcome, files = self.executor.ray.get(self.reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, Refused):
                raise error.cause from None
            self.executor.rest_node(self.node)  # it may be to blame: its disk is full
            failure = f"{type(error.cause).__name__}: {error.cause}"
            raise NodeDied(f"a job failed on a node of the Ray cluster ({failure})") from None
        except errors.RayError as error:
            self.executor.forget_node(self.node)
            raise NodeDied(f"a node of the Ray cluster died ({type(error).__name__})") from None
        finally:
            self.release()
        unpack_files(files, self.job.target)
        return outcome

    def cancel(self) -> None:
        if self.reference:
            self.executor.ray.cancel(self.reference, force=True)
        self.release()

    def release(self) -> None:
        """Let another job have the node."""
        if self.node:
            self.executor.release_node(self.node)
        self.node = None

    def waiting_for(self) -> str:
        device = self.executor.kind["device"]
        return "" if self.reference else f"no node of the Ray cluster with {device} is free"


class RayExecutor(Executor):
    """A Ray cluster. A node offers its GPUs or, if it has none, its CPU."""

    name = "ray"
    location = "a device of this machine's Ray cluster"

    def __init__(
        self, devices: Sequence[str] = (), slots: int | None = None, tell: Tell = say_nothing
    ) -> None:
        refuse_devices(type(self), devices)
        self.ray = connect_to_cluster()
        self.lock, self.busy = threading.Lock(), Counter()
        self.known, self.arenas = {}, {}  # conditions of each node, stored files of each seal
        self.asked = {}  # (Ray's reference to its conditions, when it was asked) of each node
        nodes, kinds = self.nodes(), Counter()
        for node in nodes:
            self.ask_conditions(node)
        references = [reference for reference, _ in self.asked.values()]
        self.ray.wait(references, num_returns=len(references), timeout=ANSWER_SECONDS)
        for node, number in nodes.items():
            if conditions := self.ask_conditions(node):
                kinds[tuple(conditions.items())] += number
        if not kinds:
            raise Refused("no node of the Ray cluster answers: see `ray status`")
        best = max(kinds, key=lambda kind: (is_accelerator(dict(kind)), kinds[kind]))
        self.kind = dict(best)
        self.slot_count = min(slots or kinds[best], kinds[best])

    def conditions(self) -> Conditions:
        return self.kind

    def submit(self, verb: Verb, job: Job, slot: int) -> Task:
        return RayTask(self, verb, job)

    def nodes(self) -> dict[str, int]:
        """{id: how many runs at a time} of living nodes; a head may only direct."""
        alive = [(node["NodeID"], node["Resources"]) for node in self.ray.nodes() if node["Alive"]]
        runs = {name: int(has.get("GPU", 0) or "CPU" in has) for name, has in alive}
        return {name: number for name, number in runs.items() if number}

    def call_node(self, node: str, *call: Any) -> Any:
        """Have a node call a function; returns Ray's reference. A dead node fails at once."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        resources = [n["Resources"] for n in self.ray.nodes() if n["NodeID"] == node]
        has_gpu = bool(resources and resources[0].get("GPU", 0))
        options = {"num_gpus": 1} if has_gpu else {"num_cpus": 1}
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)
        return self.ray.remote(call_on_node).options(max_retries=0, **options).remote(*call)

    def ask_conditions(self, node: str) -> Conditions | None:
        """Conditions of a node; None while it does not answer: nobody waits for a busy one."""
        if node in self.known:
            return self.known[node]
        reference, asked_at = self.asked.get(node, (None, -math.inf))
        if time.monotonic() - asked_at > AGAIN_SECONDS:
            if reference:
                self.ray.cancel(reference, force=True)
            reference = self.call_node(node, describe_node)
            self.asked[node] = reference, time.monotonic()
        with suppress(self.ray.exceptions.RayError):
            if reference:
                self.known[node] = self.ray.get(reference, timeout=0)
        return self.known.get(node)

    def take_node(self) -> str | None:
        """A node of the kind with room for one more run, which it is held for; or None."""
        with self.lock:
            for node, number in self.nodes().items():
                if self.busy[node] < number and self.ask_conditions(node) == self.kind:
                    self.busy[node] += 1
                    return node
        return None

    def release_node(self, node: str) -> None:
        """A run that a node was held for has ended."""
        with self.lock:
            self.busy[node] -= 1

    def forget_node(self, node: str) -> None:
        """A node died: ask it again if it comes back."""
        with self.lock:
            self.known.pop(node, None)
            self.asked.pop(node, None)

    def rest_node(self, node: str) -> None:
        """A job failed on a node: others have the next ones, until it is asked again."""
        with self.lock:
            self.known.pop(node, None)
            self.asked[node] = None, time.monotonic()

    def store_arena(self, arena: Arena) -> Any:
        """Ray's reference to the files of an arena, which are stored once."""
        with self.lock:
            if arena.seal not in self.arenas:
                self.arenas[arena.seal] = self.ray.put(read_arena(arena))
            return self.arenas[arena.seal]


def connect_to_cluster() -> Any:
    """Ray, connected to its cluster. Raises Refused."""
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # nodes use their own Python
    ray = import_extra("ray", "ray")
    code = {"working_dir": str(ROOT), "excludes": STAYS}
    code["env_vars"] = {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}  # a device has one name
    try:
        ray.init("auto", runtime_env=code, log_to_driver=False, ignore_reinit_error=True)
    except ConnectionError:
        raise Refused(
            "no Ray cluster is here: run `ray start --head`, or set RAY_ADDRESS"
        ) from None
    return ray


def is_accelerator(conditions: Conditions) -> bool:
    """Whether a device is better than a CPU."""
    return not conditions["device"].startswith("cpu")


# --------------------------------------------------------------------------------------------------
# On a node


def call_on_node(function: Callable[..., Any], *args: Any) -> Any:
    """The Ray task: call a function of this module with the GPU that Ray gave, or None."""
    import ray

    gpus = ray.get_gpu_ids()
    return function(*args, gpu=gpu_number(gpus[0]) if gpus else None)


def gpu_number(name: int | str) -> int:
    """The number of a GPU in CUDA, given Ray's name for it, which may be of CUDA_VISIBLE_DEVICES.

    Example: with CUDA_VISIBLE_DEVICES=2,3 Ray's "3" is cuda:1.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return visible.index(str(name)) if str(name) in visible else int(name)


def describe_node(gpu: int | None) -> Conditions:
    """The conditions of a node."""
    return local_executor(gpu).conditions()


def execute_on_node(
    verb: Verb, job: Job, kind: Conditions, files: list[Any], gpu: int | None
) -> tuple[Outcome, Files]:
    """(the outcome of a job, what it left); files: Ray's reference to the files of the arena."""
    import ray

    with execute_here(verb, job, kind, lambda: ray.get(files[0]), gpu) as (outcome, folder):
        small = (path for path in folder.iterdir() if path.stat().st_size <= TRAVEL_BYTES)
        return outcome, {path.name: read_untrusted(path, TRAVEL_BYTES) for path in small}
