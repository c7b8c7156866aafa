"""Measures of a run beside its score, and the limits that a campaign may set on them.

The referee takes them itself, from outside of the contestant, but for those that are told by its
process. Of a run that was not measured for one, as in older ledgers, it is None.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ratchet.arena.files import Refused, open_untrusted
from ratchet.arena.results import WEIGHTS_PART
from ratchet.referee.devices.nvidia import memory_of_processes, used_memory
from ratchet.referee.limits import WEIGHT_BYTES
from ratchet.referee.supervisor import EndedEarly, WatchedProcess

MB, GB = 1e6, 2**10  # a file has decimal megabytes, memory has 1024 of its own to a gigabyte
HEADER_BYTES = 2**20  # of a file of weights, at most
MOST_SIZES, MOST_SIZE = 8, 2**40  # of a tensor, and of one of its sizes
COUNTED_FILES = "model.safetensors", "config.json", "train.py"  # all that load() may read
LEAST_VALUE = 1e-9  # that a logarithm is taken of
MEMORIES = "peak_memory_mb", "score_memory_mb", "gpu_memory_mb", "gpu_score_memory_mb"
Record = Mapping[str, Any]  # what the ledger has of a run


class Measure(NamedTuple):
    """What a run is measured by. unit: of its value; words: how it is taken."""

    name: str
    unit: str
    words: str
    read: Callable[[Record], float | None]
    is_speed: bool = False  # more is better; of all others less is
    is_told: bool = False  # by the contestant's own process, so that no limit can be set on it

    @property
    def bound(self) -> str:
        """What a limit on it is: "at most", "at least"."""
        return "at least" if self.is_speed else "at most"


def figure(key: str, scale: float = 1.0) -> Callable[[Record], float | None]:
    """Reads a figure of a record, in units of so much; None where it has none."""

    def read(record: Record) -> float | None:
        value = record.get(key)
        return None if value is None else value / scale

    return read


def memory(record: Record) -> float | None:
    """The larger peak of training and of a scored model, in GB; None where nobody looked.

    Of a GPU's own memory where there is one.
    """
    keys = [key for key in MEMORIES if record.get(key) is not None]
    on_gpu = [key for key in keys if key.startswith("gpu_")]
    return max((record[key] for key in on_gpu or keys), default=0) / GB if keys else None


def trunk(record: Record) -> float | None:
    """Parameters, in millions, that are no rows of a table."""
    if record.get("params") is None or record.get("lookup") is None:
        return None
    return (record["params"] - record["lookup"]) / 1e6


def train_rate(record: Record) -> float | None:
    """Tokens of training a second."""
    tokens, seconds = record.get("tokens"), record.get("seconds", {}).get("train")
    return tokens / seconds if tokens and seconds else None


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("file_mb", "MB", "weights, config.json, train.py", figure("file_bytes", MB)),
        Measure("packed_mb", "MB", "the same, packed by zstd", figure("packed_bytes", MB)),
        Measure("params_m", "M", "numbers in model.safetensors", figure("params", 1e6)),
        Measure("trunk_m", "M", "those that are not looked up", trunk, is_told=True),
        Measure("lookup_m", "M", "those in tables", figure("lookup", 1e6), is_told=True),
        Measure("memory_gb", "GB", "peak while it trains, or is scored", memory),
        Measure("train_tps", "tokens/s", "of training", train_rate, is_speed=True, is_told=True),
        Measure("user_tps", "tokens/s", "decoding one row", figure("user_tps"), is_speed=True),
        Measure("batch_tps", "tokens/s", "decoding many rows", figure("batch_tps"), is_speed=True),
        Measure("flops", "FLOPs", "a token of training", figure("flops_per_token"), is_told=True),
        Measure("joules", "J", "while training, of an NVIDIA GPU", figure("joules")),
    )
}
LIMITABLE = [name for name, measure in MEASURES.items() if not measure.is_told]
DECODING = "user_tps", "batch_tps"  # measured only where they are asked for: they take seconds


def read_measures(record: Record) -> dict[str, float]:
    """{name: value} of all measures that a run has, as {"params_m": 1.31, "memory_gb": 0.62}."""
    values = {name: measure.read(record) for name, measure in MEASURES.items()}
    return {name: value for name, value in values.items() if value is not None}


class GpuMemory:
    """The most memory of a GPU that a program was seen to take: a look of WatchedProcess.

    What the device had in use before counts for others where its driver doesn't tell whose it is.
    is_judge: the process itself scores, so that only its children's memory is the model's.
    """

    def __init__(self, device: str, process: WatchedProcess, is_judge: bool = False) -> None:
        self.device, self.process, self.is_judge = device, process, is_judge
        self.before, self.peak_bytes = used_memory(device), None

    def __call__(self) -> None:
        if self.before is None:
            return
        numbers = {process.pid for process in self.process.looks.processes}
        if self.is_judge:
            numbers.discard(self.process.popen.pid)
        taken = memory_of_processes(self.device, numbers)
        if taken is None:
            taken = (used_memory(self.device) or 0) - self.before
        self.peak_bytes = max(self.peak_bytes or 0, taken)

    def record(self, key: str) -> dict[str, int]:
        """{key: megabytes}, {} where there is no GPU that tells it."""
        return {} if self.peak_bytes is None else {key: round(self.peak_bytes / 2**20)}


# --------------------------------------------------------------------------------------------------
# Files


def measure_files(folder: Path, packed: bool) -> dict[str, int]:
    """{"file_bytes", "packed_bytes"} of all that a run's load() may read; the latter if wanted.

    One file after the other goes through zstd as one stream, in pieces.
    """
    paths = [folder / name for name in COUNTED_FILES if (folder / name).exists()]
    sizes = {"file_bytes": sum(path.stat().st_size for path in paths)}
    return sizes | ({"packed_bytes": packed_size(paths)} if packed else {})


def packed_size(paths: Iterable[Path]) -> int:
    """Bytes that files take when zstd has packed them, one behind the other."""
    import pyarrow  # takes a while, and few ask for this

    sink = pyarrow.MockOutputStream()  # which counts and keeps nothing
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        for path in paths:
            with open_untrusted(path, WEIGHT_BYTES) as file:
                while piece := file.read(2**22):
                    stream.write(piece)
    return sink.size()


def measure_rehearsal(out: Path) -> dict[str, int]:
    """{"file_bytes", "params"} of the weights that a contestant saved to rehearse it, {} if none.

    It may have saved others: this only ends early what would be too large anyway.
    """
    with suppress(OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        with open_untrusted(out / WEIGHTS_PART, WEIGHT_BYTES) as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, HEADER_BYTES)))
            size = file.seek(0, 2)
        header.pop("__metadata__", None)
        shapes = [tensor["shape"] for tensor in header.values()]
        if all(map(is_shape, shapes)):
            return {"file_bytes": size, "params": sum(map(math.prod, shapes))}
    return {}


def is_shape(value: Any) -> bool:
    """Whether what a contestant wrote can be a tensor's shape: others' product takes minutes."""
    return (
        isinstance(value, list)
        and len(value) <= MOST_SIZES
        and all(type(size) is int and 0 <= size < MOST_SIZE for size in value)
    )


# --------------------------------------------------------------------------------------------------
# Limits


class Requirement(NamedTuple):
    """A limit that a campaign sets: Requirement("file_mb", 16.0), at least 200.0 of "user_tps"."""

    name: str  # of a measure
    limit: float

    @property
    def measure(self) -> Measure:
        return MEASURES[self.name]

    def __str__(self) -> str:
        """Example: "file_mb at most 16 MB"."""
        return f"{self.name} {self.measure.bound} {self.limit:g} {self.measure.unit}"

    def is_met(self, value: float) -> bool:
        return value >= self.limit if self.measure.is_speed else value <= self.limit

    def excess(self, value: float) -> float:
        """By how much it isn't met, on a scale of logarithms: 0 at the limit, 0.69 at twice it."""
        excess = math.log(max(value, LEAST_VALUE) / self.limit)
        return -excess if self.measure.is_speed else excess


def parse_requirements(texts: Iterable[str]) -> dict[str, float]:
    """Example: ["file_mb=16", "user_tps=200"] -> {"file_mb": 16.0, "user_tps": 200.0}.

    Raises Refused.
    """
    limits: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in MEASURES:
            raise Refused(f"--limit {text}: there is no measure {name!r}: {', '.join(LIMITABLE)}")
        if MEASURES[name].is_told:
            raise Refused(
                f"--limit {text}: {name} is told by the contestant's own process, which could lie: "
                f"limit {', '.join(LIMITABLE)}"
            )
        try:
            limit = float(value)
        except ValueError:
            limit = 0.0
        if not 0 < limit < float("inf"):
            raise Refused(f"--limit {text}: give a number above 0, as {name}=16")
        if name in limits:
            raise Refused(f"--limit {text}: {name} is limited twice: give it once")
        limits[name] = limit
    return limits


def why_overlimit(record: Record, limits: Mapping[str, float]) -> str:
    """Which limit a run is beyond, as far as it was measured; "" if none.

    Example: "its file_mb is 17.3 MB: at most 16"
    """
    values = read_measures(record)
    for name, limit in limits.items():
        asked = Requirement(name, limit)
        if name in values and not asked.is_met(values[name]):
            value = f"{values[name]:.7g} {asked.measure.unit}"
            return f"its {name} is {value}: {asked.measure.bound} {limit:g}"
    return ""


def refuse_overlimit(record: Record, limits: Mapping[str, float]) -> None:
    """Hold what is known of a run so far against limits. Raises EndedEarly("overlimit")."""
    if reason := why_overlimit(record, limits):
        raise EndedEarly("overlimit", reason)


def refuse_unmeasured(record: Record, names: Iterable[str]) -> None:
    """Raises EndedEarly("invalid") when a run with a score lacks a measure that it must have."""
    values = read_measures(record)
    for name in names if record["status"] == "ok" else ():
        if not values.get(name, 0) > 0:
            raise EndedEarly("invalid", f"its {name} could not be measured here")
