"""What a run takes beside its score, and the limits of a campaign."""

import contextlib
import json
import math
import types

import numpy as np
import pytest
import safetensors.numpy

from ratchet.arena.files import Refused
from ratchet.arena.results import WEIGHTS_PART
from ratchet.referee import measures, scoring
from ratchet.referee.measures import (
    GpuMemory,
    Requirement,
    measure_files,
    measure_rehearsal,
    parse_requirements,
    read_measures,
    refuse_overlimit,
)
from ratchet.referee.supervisor import EndedEarly

RECORD = {
    "tokens": 60_000,
    "seconds": {"train": 20.0},
    "params": 3_000_000,
    "lookup": 1_000_000,
    "file_bytes": 8_000_000,
    "peak_memory_mb": 512,
    "score_memory_mb": 768,
    "flops_per_token": 1e7,
    "joules": None,
}


def test_a_record_has_measures_in_their_units():
    assert read_measures(RECORD) == {
        "file_mb": 8.0,
        "params_m": 3.0,
        "trunk_m": 2.0,
        "lookup_m": 1.0,
        "memory_gb": 0.75,
        "train_tps": 3000.0,
        "flops": 1e7,
    }
    on_gpu = RECORD | {"gpu_memory_mb": 2048, "gpu_score_memory_mb": 1024}
    assert read_measures(on_gpu)["memory_gb"] == 2.0
    assert read_measures({"status": "crash", "seconds": {"train": 1.0}}) == {}


def test_limits_are_read_and_held():
    limits = parse_requirements(["file_mb=8", "user_tps=200"])
    assert limits == {"file_mb": 8.0, "user_tps": 200.0}
    assert str(Requirement("file_mb", 8.0)) == "file_mb at most 8 MB"
    assert str(Requirement("train_tps", 2000.0)) == "train_tps at least 2000 tokens/s"
    assert Requirement("file_mb", 8.0).excess(8.0) == 0
    assert Requirement("file_mb", 8.0).excess(16.0) == pytest.approx(math.log(2))
    assert Requirement("user_tps", 200.0).excess(100.0) == pytest.approx(math.log(2))
    assert Requirement("joules", 5.0).excess(0.0) < -20
    refuse_overlimit(RECORD, limits)
    refuse_overlimit({}, limits)  # nothing is known yet
    with pytest.raises(EndedEarly, match=r"its file_mb is 8 MB: at most 7.9") as end:
        refuse_overlimit(RECORD, {"file_mb": 7.9})
    assert end.value.status == "overlimit"
    with pytest.raises(EndedEarly, match=r"its file_mb is 8.00001 MB: at most 8"):
        refuse_overlimit({"file_bytes": 8_000_010}, {"file_mb": 8.0})
    with pytest.raises(EndedEarly, match=r"its train_tps is 3000 tokens/s: at least 3001"):
        refuse_overlimit(RECORD, {"train_tps": 3001})


@pytest.mark.parametrize(
    "texts",
    [
        ["trunk_m=1"],
        ["flops=1"],
        ["train_tps=1"],
        ["mb=1"],
        ["file_mb"],
        ["file_mb=x"],
        ["file_mb=0"],
        ["file_mb=inf"],
    ],
)
def test_a_limit_that_is_none_is_refused(texts):
    with pytest.raises(Refused):
        parse_requirements(texts)


def test_a_measure_is_limited_once():
    with pytest.raises(Refused, match="twice"):
        parse_requirements(["file_mb=1", "file_mb=2"])


def test_all_that_a_model_is_loaded_from_is_its_file(tmp_path):
    for name, data in {
        "model.safetensors": bytes(10_000),
        "config.json": b"{}" * 100,
        "train.py": b"A = 1\n",
        "curve.jsonl": bytes(5000),  # nothing that a model is loaded from
    }.items():
        (tmp_path / name).write_bytes(data)
    assert measure_files(tmp_path, packed=False) == {"file_bytes": 10_206}
    sizes = measure_files(tmp_path, packed=True)
    assert sizes["file_bytes"] == 10_206 and 0 < sizes["packed_bytes"] < 200
    noise = np.random.default_rng(1).bytes(10_000)
    (tmp_path / "model.safetensors").write_bytes(noise)
    assert measure_files(tmp_path, packed=True)["packed_bytes"] > 10_000


def test_rehearsed_weights_tell_their_size(tmp_path):
    assert measure_rehearsal(tmp_path) == {}
    weights = {"a": np.zeros((30, 4), np.float32), "b": np.zeros(7, np.int64)}
    for metadata in (None, {"other": "name"}):
        safetensors.numpy.save_file(weights, tmp_path / WEIGHTS_PART, metadata)
        size = (tmp_path / WEIGHTS_PART).stat().st_size
        assert measure_rehearsal(tmp_path) == {"file_bytes": size, "params": 127}


@pytest.mark.parametrize(
    "shape", [[2**40], [-5], [1e308, 1e308], [10**400], [9999] * 9, [9999] * 100_000, "ab", [True]]
)
def test_shapes_that_are_none_cost_no_time(tmp_path, shape):
    header = json.dumps({"a": {"shape": shape}}).encode()
    (tmp_path / WEIGHTS_PART).write_bytes(len(header).to_bytes(8, "little") + header)
    assert measure_rehearsal(tmp_path) == {}


@pytest.mark.parametrize(
    "header", [b"", b"[]", b'{"a": 1}', b'{"a": {"shape": ["x"]}}', b"[" * 100_000, b"\xff"]
)
def test_rehearsed_weights_that_are_none_tell_nothing(tmp_path, header):
    (tmp_path / WEIGHTS_PART).write_bytes(len(header).to_bytes(8, "little") + header)
    assert measure_rehearsal(tmp_path) == {}


def test_decoding_is_timed_where_its_speed_is_limited(monkeypatch):
    asked, speeds = [], {"user_tps": 180.0, "batch_tps": 900.0, "batch_rows": 16}

    def score_split(job, folder, level, split, decoding):
        asked.append((split, decoding))
        result = dict.fromkeys(scoring.FIGURES, 1) | {"status": "ok"}
        return result | (speeds if decoding else {}), {}

    monkeypatch.setattr(scoring, "score_split", score_split)
    job = types.SimpleNamespace(splits=("val", "test"), asked_measures={"user_tps"})
    scores = scoring.score_submission(job, "none", None)
    assert asked == [("val", True), ("test", False)]
    assert {name: scores[name] for name in speeds} == speeds
    with pytest.raises(EndedEarly, match="its user_tps is 180 tokens/s: at least 200"):
        refuse_overlimit(scores, {"user_tps": 200.0})
    job.asked_measures = {"file_mb"}
    assert "user_tps" not in scoring.score_submission(job, "none", None)


def watched(*pids):
    """Stands in for a WatchedProcess whose tree has these processes, itself first."""
    processes = [types.SimpleNamespace(pid=pid) for pid in pids]
    looks = types.SimpleNamespace(processes=processes)
    return types.SimpleNamespace(looks=looks, popen=types.SimpleNamespace(pid=pids[0]))


def watch_gpu(monkeypatch, of_processes, in_use):
    """GpuMemory after looks at which the driver told this, in bytes."""
    of_processes, in_use = iter(of_processes), iter(in_use)
    monkeypatch.setattr(measures, "memory_of_processes", lambda *_: next(of_processes))
    monkeypatch.setattr(measures, "used_memory", lambda _: next(in_use))
    process = watched(1)
    gpu = GpuMemory("cuda:0", process)
    for _ in range(3):
        gpu()
    return gpu.record("gpu_memory_mb")


def test_memory_of_a_gpu_is_that_of_the_runs_processes(monkeypatch):
    mb = 2**20
    told = watch_gpu(monkeypatch, [10 * mb, 30 * mb, 20 * mb], [500 * mb])
    assert told == {"gpu_memory_mb": 30}


def test_the_judges_memory_of_a_gpu_is_not_the_models(monkeypatch):
    taken = {7: 2**30, 8: 2**20, 9: 2**21}
    monkeypatch.setattr(measures, "used_memory", lambda _: 0)
    monkeypatch.setattr(measures, "memory_of_processes", lambda _, pids: sum(map(taken.get, pids)))
    for is_judge, megabytes in ((False, 1027), (True, 3)):
        gpu = GpuMemory("cuda:0", watched(7, 8, 9), is_judge)
        gpu()
        assert gpu.record("key") == {"key": megabytes}


def test_where_nobody_tells_whose_memory_it_is_what_was_in_use_before_is_others(monkeypatch):
    mb = 2**20
    told = watch_gpu(monkeypatch, [None] * 3, [500 * mb, 510 * mb, 900 * mb, 600 * mb])
    assert told == {"gpu_memory_mb": 400}


def test_without_a_gpu_there_is_no_memory_of_one(monkeypatch):
    assert watch_gpu(monkeypatch, [], [None]) == {}


def test_a_header_holds_names_and_shapes_and_no_more(tmp_path):
    tensors = {"weight": np.zeros(2**16, np.float32)}  # whose 64th are 4096 bytes
    for data, is_refused in ("x" * 60_000, False), ("x" * 80_000, True):
        path = tmp_path / f"{len(data)}.safetensors"
        safetensors.numpy.save_file(tensors, path, {"data": data})
        with pytest.raises(EndedEarly) if is_refused else contextlib.nullcontext():
            scoring.refuse_large_header(path)
    (none := tmp_path / "none").write_bytes(b"no weights")
    scoring.refuse_large_header(none)  # whoever reads it says so
    scoring.refuse_large_header(tmp_path / "missing")
