"""The pool: places of this machine, nodes of a Ray cluster that may die, jobs of Slurm."""

import os
import threading
import time

import pytest
from conftest import ROOT
from test_cheats import BUDGET, SEED, run_honestly  # noqa: F401

from ratchet.arena.definition import find_arena
from ratchet.arena.files import Refused
from ratchet.executors import base, local, registry, travel
from ratchet.experiments import sources
from ratchet.referee import supervisor
from ratchet.referee.devices.lock import unique_name
from ratchet.referee.job import Job

CONTESTANT = ROOT / "tests/contestant.py"


def job(folder, budget="20000tok", seed=7):
    source = sources.read_source(CONTESTANT, files=True)
    return Job(source, seed, budget, find_arena("tiny"), folder / "run", folder / "compiled")


@pytest.fixture(scope="module")
def nodes(arena, tmp_path_factory):
    """A Ray cluster of two nodes, each with a CPU and a cache of its own; the first one has the
    arena.
    """
    other = tmp_path_factory.mktemp("other node")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("USAGE_STATS_ENABLED", "ENABLE_UV_RUN_RUNTIME_ENV"):
            patch.setenv(f"RAY_{name}", "0")
        from ray import cluster_utils

        patch.setenv("RATCHET_CACHE", str(arena.folder.parent))
        head = dict(num_cpus=1, num_gpus=0, include_dashboard=False)
        cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
        cluster.other = cluster.add_node(
            num_cpus=1, num_gpus=0, env_vars={"RATCHET_CACHE": str(other)}
        )
        cluster.cache = other
        patch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
        base.imported("ray", "ray").shutdown()
        cluster.shutdown()


def test_places_are_of_one_kind_and_named_once(halves, monkeypatch):
    assert [place.device for place in registry.places(names=["cpu"])] == ["cpu"]
    assert len(registry.places(names=halves)) == 2
    for on, names in (
        (None, ["cpu", "cpu"]),
        (None, ["cuda:77"]),
        (None, ["cpu", "cpu:0/2"]),
        (None, ["cpu:2/2"]),
        ("mars", None),
        ("ray", ["cpu"]),
    ):
        with pytest.raises(Refused):
            registry.places(on, names)
    monkeypatch.setattr("ratchet.referee.devices.cores.CORES", [[0], [1], [2]])
    with pytest.raises(
        Refused, match="share cores"
    ):  # a half and a third of three cores have one each
        registry.places(names=["cpu:0/2", "cpu:0/3"])


def test_an_arena_travels_once_and_is_known_by_its_seal(arena, tmp_path, monkeypatch):
    known, calls = find_arena("tiny"), []
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path))

    def files():
        calls.append(1)
        return travel.read_arena(known)

    for _ in range(2):
        found = travel.at_hand(known, files)
        assert (
            found.seal == known.seal and found.folder.is_relative_to(tmp_path) and len(calls) == 1
        )
    (found.folder / "val.rows").write_bytes(b"")
    with pytest.raises(Refused, match="val.rows is not what was prepared"):
        travel.at_hand(known, files)


def test_a_job_for_another_kind_of_device_is_not_done(arena, tmp_path):
    with pytest.raises(Refused, match="to be compared"):
        travel.carry_out("run", job(tmp_path), {"device": "NVIDIA H100"}, dict)


def test_ray_and_this_machine_give_the_same_score(nodes, run_honestly, tmp_path):  # noqa: F811
    places = registry.places("ray")
    assert len(places) == 2 and places[0].conditions() == local.Local().conditions()
    here, facts = run_honestly(), {}

    def work(number, place):
        facts[number] = place.run(job(tmp_path / str(number), BUDGET, SEED))

    threads = [threading.Thread(target=work, args=each) for each in enumerate(places)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, found in facts.items():
        assert found["status"] == "ok" and found["val"]["nats"] == here["val"]["nats"]
        assert (tmp_path / str(number) / "run/model.safetensors").exists()
    assert list(nodes.cache.glob(".shipped/*/tiny/arena.json"))  # the second node had no arena
    assert not [*nodes.cache.glob(".live/*")]


@pytest.mark.slow
def test_a_run_on_a_node_that_dies_is_done_elsewhere_and_leaves_nothing_behind(nodes, tmp_path):
    place, found = registry.places("ray")[0], []
    cluster = place.cluster
    with cluster.lock:  # the run is to begin on the node that will die
        own = cluster.ray.get_runtime_context().get_node_id()
        cluster.busy[own] += 1
    thread = threading.Thread(target=lambda: found.append(place.run(job(tmp_path, budget="30s"))))
    thread.start()
    live = nodes.cache / ".live" / unique_name("cpu") / "out"
    while not live.exists():
        time.sleep(0.1)
    nodes.remove_node(nodes.other, allow_graceful=False)
    cluster.busy.clear()
    thread.join(120)
    assert [facts["status"] for facts in found] == ["ok"]
    assert not supervisor.find_marked(str(live))
    assert len(cluster.nodes()) == 1


@pytest.mark.slow
def test_slurm_jobs_give_the_same_score_and_a_lost_one_is_done_again(arena, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "ratchet.experiments.sources.home", lambda: tmp_path
    )  # no Slurm here: submitit starts processes
    (place,) = registry.places("slurm")
    assert place.conditions() == local.Local().conditions()
    facts = place.run(job(tmp_path))
    assert facts["val"] == facts["val"] | {
        "nats": local.Local().run(job(tmp_path / "here"))["val"]["nats"]
    }
    monkeypatch.setattr("ratchet.executors.ray.NODE_TRIES", 2)
    with pytest.raises(Refused, match="failed 2 times"):
        place.cluster.submit(60, os.abort)


def test_a_cancelled_job_ends(arena, tmp_path, monkeypatch):
    monkeypatch.setattr("ratchet.referee.supervisor.cancelled", threading.Event())
    threading.Timer(2, supervisor.cancelled.set).start()
    begin = time.monotonic()
    with pytest.raises(supervisor.Cancelled):
        local.Local().run(job(tmp_path, budget="60s"))
    assert time.monotonic() - begin < 20 and not supervisor.find_marked(
        str(job(tmp_path).live_folder / "out")
    )
