"""Executors: devices of this machine, nodes of a Ray cluster that may die, jobs of Slurm."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import psutil
import pytest
import slurm_cluster
from conftest import ROOT, open_session
from debug_executor import DebugExecutor
from slurm_cluster import wait_until
from test_cheats import BUDGET, SEED, run_honestly  # noqa: F401
from test_experiments import commit, problems, repository  # noqa: F401
from typer.testing import CliRunner

from ratchet import __main__, commits
from ratchet.arena.definition import find_arena
from ratchet.arena.files import Refused
from ratchet.executors import EXECUTORS, base, open_executor, ray, slurm, travel
from ratchet.experiments import sources
from ratchet.experiments.ledger import Ledger, bpb
from ratchet.referee import supervisor
from ratchet.referee.devices.lock import unique_name
from ratchet.referee.early_stopping import Milestone
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
        base.import_extra("ray", "ray").shutdown()
        cluster.shutdown()


def test_devices_are_of_one_kind_and_named_once(halves, monkeypatch):
    assert [slot.device for slot in open_executor(devices=["cpu"]).slots()] == ["cpu"]
    assert len(open_executor(devices=halves).slots()) == 2
    for on, names in (
        (None, ["cpu", "cpu"]),
        (None, ["cuda:77"]),
        (None, ["cpu", "cpu:0/2"]),
        (None, ["cpu:2/2"]),
        ("mars", None),
        ("ray", ["cpu"]),
    ):
        with pytest.raises(Refused):
            open_executor(on, names)
    monkeypatch.setattr("ratchet.referee.devices.cores.CORES", [[0], [1], [2]])
    with pytest.raises(
        Refused, match="share cores"
    ):  # a half and a third of three cores have one each
        open_executor(devices=["cpu:0/2", "cpu:0/3"])


@pytest.mark.parametrize("on", EXECUTORS)
@pytest.mark.parametrize("slots", [0, -1])
def test_slots_that_are_none_are_refused(on, slots):
    with pytest.raises(Refused, match=f"--slots {slots} would do no run"):
        open_executor(on, slots=slots)


def test_an_arena_travels_once_and_is_known_by_its_seal(arena, tmp_path, monkeypatch):
    known, calls = find_arena("tiny"), []
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path))

    def files():
        calls.append(1)
        return travel.read_arena(known)

    for _ in range(2):
        found = travel.ready_arena(known, files)
        assert (
            found.seal == known.seal and found.folder.is_relative_to(tmp_path) and len(calls) == 1
        )
    (found.folder / "val.rows").write_bytes(b"")
    with pytest.raises(Refused, match="val.rows is not what was prepared"):
        travel.ready_arena(known, files)


def test_a_job_for_another_kind_of_device_is_not_done(arena, tmp_path):
    kind = {"device": "NVIDIA H100"}
    with pytest.raises(Refused, match="not 'NVIDIA H100'"):
        with travel.execute_here("run", job(tmp_path), kind, dict):
            pass


@pytest.mark.slow
def test_ray_and_this_machine_give_the_same_score(nodes, run_honestly, tmp_path):  # noqa: F811
    slots = open_executor("ray").slots()
    assert len(slots) == 2 and slots[0].conditions() == open_executor().conditions()
    here, facts = run_honestly(), {}

    def work(number, slot):
        facts[number] = slot.run(job(tmp_path / str(number), BUDGET, SEED))

    threads = [threading.Thread(target=work, args=each) for each in enumerate(slots)]
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
    executor, found, said = open_executor("ray"), [], []
    run = job(tmp_path, budget="30s")
    with executor.lock:  # the run is to begin on the node that will die
        own = executor.ray.get_runtime_context().get_node_id()
        executor.busy[own] += 1
    thread = threading.Thread(
        target=lambda: found.append(executor.slots()[0].run(run, said.append))
    )
    thread.start()
    live = nodes.cache / ".live" / unique_name("cpu") / "out"
    while not live.exists():
        time.sleep(0.1)
    nodes.remove_node(nodes.other, allow_graceful=False)
    executor.busy.clear()
    thread.join(120)
    assert [facts["status"] for facts in found] == ["ok"]
    assert not supervisor.find_marked(str(live))
    assert len(executor.nodes()) == 1 and "node of the Ray cluster died" in said[0]


def test_a_cancelled_job_ends(arena, tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "cancelled", threading.Event())
    threading.Timer(2, supervisor.cancelled.set).start()
    begin = time.monotonic()
    with pytest.raises(supervisor.Cancelled):
        open_executor().slots()[0].run(job(tmp_path, budget="60s"))
    assert time.monotonic() - begin < 20 and not supervisor.find_marked(
        str(job(tmp_path).live_folder / "out")
    )


def test_another_executor_is_one_class_and_one_line(repository, arena, monkeypatch):  # noqa: F811
    """Calibration and a try from the command line, in two slots' executor that draws scores."""
    monkeypatch.setitem(EXECUTORS, "debug", DebugExecutor)
    words = ["calibrate", "--on", "debug", "--arena", "tiny", "--budget", "5s", "-n", "3"]
    assert CliRunner().invoke(__main__.app, words).exit_code == 0
    commit("another one", more="x = 1")
    assert CliRunner().invoke(__main__.app, ["try", "x is 1", "--on", "debug"]).exit_code == 0
    baseline, tried, *trials = Ledger(repository).experiments().values()
    assert baseline.verdict == "baseline" and tried.is_decided  # by drawn scores: any verdict
    assert [e.n for e in trials] == [tried.closes["n"]] * (not tried.has_own_verdict)
    runs = [run for e in (baseline, tried, *trials) for run in e.runs]
    assert all(1.1 < bpb(run) < 1.3 for run in runs) and not problems()
    with pytest.raises(Refused, match="calibrate` first"):  # of this machine's own device
        open_session()


class Doomed(base.Task):
    """A task that waits some looks long and then has no outcome."""

    poll_seconds, looks, ended = 0.0, 2, 0

    def is_done(self):
        self.looks -= 1
        return self.looks < 0

    def outcome(self):
        raise base.NodeDied("node 7 died")

    def cancel(self):
        Doomed.ended += 1

    def waiting_for(self):
        return "job 7 waits" if self.looks > 0 else ""


def test_a_job_whose_nodes_die_is_given_up_and_waiting_is_told(monkeypatch):
    monkeypatch.setattr(base, "PATIENT_SECONDS", 0)
    executor, said = DebugExecutor(), []
    monkeypatch.setattr(executor, "submit", lambda *job: Doomed())
    with pytest.raises(Refused, match="5 times in a row.*debug: node 7 died"):
        executor.execute("run", None, 0, said.append)
    assert said[:3] == ["job 7 waits", "it has begun", "  node 7 died: the job is done again"]
    monkeypatch.setattr(supervisor, "cancelled", threading.Event())
    supervisor.cancelled.set()
    with pytest.raises(supervisor.Cancelled):
        executor.execute("run", None)
    assert Doomed.ended == 1


# --------------------------------------------------------------------------------------------------
# Slurm


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """commands(sbatch="echo 7", ...): stand-ins for Slurm's commands, which nobody has here."""
    monkeypatch.setattr(commits, "home", lambda: tmp_path)
    for name in [name for name in os.environ if name.startswith(("SBATCH_", "RATCHET_SBATCH"))]:
        monkeypatch.delenv(name)

    def write(**scripts):
        slurm_cluster.write_commands(tmp_path / "bin", **{"sinfo": "echo 'main*|(null)'"} | scripts)
        monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=":")

    return write


def test_without_slurm_or_a_partition_one_sentence_says_so(commands, monkeypatch):
    refuse = "echo 'sbatch: error: Batch job submission failed: Invalid account' >&2; exit 1"
    commands(sbatch=refuse)
    with pytest.raises(Refused, match="refuses the job .*Invalid account.*SBATCH_ACCOUNT"):
        open_executor("slurm")
    for options in ("--partition gpu", '--comment="x'):
        monkeypatch.setenv("RATCHET_SBATCH", options)
        with pytest.raises(Refused, match="write options with ="):
            open_executor("slurm")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(Refused, match="sbatch is not found"):
        open_executor("slurm")


@pytest.mark.parametrize(
    "rows, environment, asked",
    [
        ("main*|(null)", {}, False),
        ("main*|gpu:a100:8", {}, True),
        ("main*|(null)\ngpu|gpu:8", {}, False),
        ("main*|gpu:8", {"SBATCH_GRES": "gpu:2"}, False),
        ("main*|gpu:8", {"RATCHET_SBATCH": "--gpus-per-node=2"}, False),
    ],
)
def test_a_gpu_is_asked_for_where_there_are_some(rows, environment, asked, commands, monkeypatch):
    commands(sinfo=f"printf '{rows}\\n'")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert slurm.gpus_offered() == asked


@pytest.mark.parametrize(
    "visible, name, number",
    [(None, 1, 1), ("2,3", "3", 1), ("GPU-5fd4f087,GPU-8f2a77c1", "GPU-8f2a77c1", 1)],
)
def test_the_gpu_that_ray_gave_is_the_one_that_is_used(visible, name, number, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert ray.gpu_number(name) == number


def test_a_ray_node_has_a_run_for_each_gpu_or_one_for_its_cpu_or_none():
    resources = {"gpus": {"CPU": 8, "GPU": 2.0}, "cpu": {"CPU": 8.0}, "head": {"memory": 1.0}}
    known = [{"NodeID": name, "Alive": True, "Resources": has} for name, has in resources.items()]
    known.append({"NodeID": "dead", "Alive": False, "Resources": {"CPU": 1.0}})
    executor = SimpleNamespace(ray=SimpleNamespace(nodes=lambda: known))
    assert ray.RayExecutor.nodes(executor) == {"gpus": 2, "cpu": 1}


class FakeRay:
    """A Ray cluster of two nodes, one of which others keep busy: a reference is a node's name."""

    class exceptions:
        RayError = type("RayError", (Exception,), {})
        RayTaskError = type("RayTaskError", (RayError,), {})

    def __init__(self):
        self.answers = {"free": {"device": "cpu"}, "busy": self.exceptions.RayError("not yet")}
        self.cancelled = []

    def nodes(self):
        return [
            {"NodeID": name, "Alive": True, "Resources": {"CPU": 1.0}} for name in ("busy", "free")
        ]

    def wait(self, references, num_returns, timeout):
        return references, []

    def get(self, reference, timeout=None):
        assert not timeout  # the lock is held
        if isinstance(answer := self.answers[reference], Exception):
            raise answer
        return answer

    def cancel(self, reference, force):
        self.cancelled.append(reference)


@pytest.fixture
def fake_ray(monkeypatch):
    """A FakeRay that executors connect to; the names of nodes that were asked."""
    cluster, asked = FakeRay(), []

    def call_node(self, node, *call):
        asked.append(node)
        return node

    monkeypatch.setattr(ray, "connect_to_cluster", lambda: cluster)
    monkeypatch.setattr(ray.RayExecutor, "call_node", call_node)
    return cluster, asked


def test_a_ray_node_that_others_keep_busy_holds_up_nobody(fake_ray, monkeypatch):
    cluster, asked = fake_ray
    executor = open_executor("ray")
    assert executor.slot_count == 1
    assert [executor.take_node() for _ in range(3)] == ["free", None, None]
    assert asked == ["busy", "free"] and not cluster.cancelled
    monkeypatch.setattr(ray, "AGAIN_SECONDS", -1)
    cluster.answers["busy"] = cluster.answers["free"]
    assert executor.take_node() == "busy" and asked[2:] == cluster.cancelled == ["busy"]


@pytest.mark.parametrize(
    "cause, raised, next_node",
    [(OSError("no space left"), base.NodeDied, None), (Refused("no such arena"), Refused, "free")],
)
def test_a_ray_node_where_a_run_fails_rests_unless_the_run_is_refused(
    cause, raised, next_node, fake_ray
):
    cluster, _ = fake_ray
    task = ray.RayTask(executor := open_executor("ray"), "run", None)
    task.node, task.reference = executor.take_node(), "run"
    cluster.answers["run"] = error = cluster.exceptions.RayTaskError()
    error.cause = cause
    with pytest.raises(raised, match=str(cause)):
        task.outcome()
    assert not executor.busy["free"] and executor.take_node() == next_node


@pytest.mark.parametrize("silent", ["sbatch", "squeue"])
def test_an_interrupted_head_leaves_no_job_though_slurm_does_not_answer(
    silent, commands, tmp_path, monkeypatch
):
    """Two threads: one waits for an answer, the other one for that or the next."""
    scripts = {"sbatch": "echo 7", "squeue": "", "scancel": f"echo $* >> {tmp_path}/cancelled"}
    commands(**scripts | {silent: f"touch {tmp_path}/asked; exec sleep 600"})
    monkeypatch.setattr(slurm.SlurmTask, "poll_seconds", 0.0)
    monkeypatch.setattr(slurm, "COMMAND_SECONDS", 600)
    monkeypatch.setattr(supervisor, "cancelled", threading.Event())
    executor, folders = SimpleNamespace(queue=slurm.Queue()), [tmp_path / "a", tmp_path / "b"]

    def work(folder):
        with contextlib.suppress(supervisor.Cancelled):
            base.wait_for(slurm.SlurmTask(executor, folder))

    threads = [threading.Thread(target=work, args=[each], daemon=True) for each in folders]
    for folder, thread in zip(folders, threads):
        folder.mkdir()
        thread.start()
    wait_until((tmp_path / "asked").exists)
    supervisor.cancelled.set()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    cancelled = (tmp_path / "cancelled").read_text(encoding="utf-8").splitlines()
    assert sorted(cancelled) == ["--quiet --name=a", "--quiet --name=b"]
    assert not any(folder.exists() for folder in folders)


def test_the_folder_of_a_job_stays_until_slurm_has_cancelled_it(commands, tmp_path):
    commands(scancel=f"[ -e {tmp_path}/up ]")
    (folder := tmp_path / "ratchet-1").mkdir()
    slurm.cancel_job(folder, 60)
    assert folder.exists()
    (tmp_path / "up").touch()
    slurm.cancel_job(folder, 60)
    assert not folder.exists()


@pytest.mark.parametrize(
    "error", ["Unable to contact slurm controller", "Socket timed out on send/recv operation"]
)
def test_why_a_slurm_job_waits_is_told_and_a_controller_may_be_away(
    error, commands, tmp_path, monkeypatch
):
    """First no controller answers, then the job waits; that it is cancelled ends it."""
    away = f"echo 'sbatch: error: {error}' >&2; exit 1"
    submit = f"if [ -e {tmp_path}/up ]; then echo '7;main'; else touch {tmp_path}/up; {away}; fi"
    squeue = "echo '6|RUNNING|None'; echo '7|PENDING|PartitionTimeLimit'"
    commands(sbatch=submit, squeue=squeue, scancel=f"echo $* >> {tmp_path}/cancelled")
    monkeypatch.setattr(base, "PATIENT_SECONDS", 0)
    monkeypatch.setattr(slurm.SlurmTask, "poll_seconds", 0.0)
    monkeypatch.setattr(supervisor, "cancelled", threading.Event())
    said = []

    def tell(text):
        said.append(text)
        if "PartitionTimeLimit" in text:
            supervisor.cancelled.set()

    with pytest.raises(supervisor.Cancelled):
        open_executor("slurm", tell=tell)
    assert "controller does not answer" in said[0] and "set SBATCH_TIMELIMIT" in said[-1]
    cancelled = (tmp_path / "cancelled").read_text(encoding="utf-8").splitlines()
    assert len(cancelled) == 2 and cancelled[0] == cancelled[1]  # the first try may be queued, too
    assert "--name=ratchet-" in cancelled[0]
    assert not [*(tmp_path / "runs/.slurm").iterdir()]


def test_a_job_comes_back_from_json_as_it_was(arena, tmp_path):
    known = job(tmp_path)._replace(splits=("val", "test"), milestones=(Milestone(0.5, 1.25),))
    assert slurm.unpack_job(slurm.json.loads(slurm.json.dumps(slurm.pack_job(known)))) == known


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A real Slurm cluster of two nodes."""
    if why := slurm_cluster.why_not():
        pytest.skip(f"no Slurm cluster can be started here: {why}")
    with slurm_cluster.running_cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def on_slurm(cluster, arena, tmp_path, monkeypatch):
    """start(budget, ...) -> (thread, list that its facts or error go to), each in a slot of the
    cluster.
    """
    for name in [name for name in os.environ if name.startswith(("SBATCH_", "SLURM_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_CONF", str(cluster.configuration))
    monkeypatch.setattr(commits, "home", lambda: tmp_path)
    monkeypatch.setattr(slurm, "ARRIVAL_SECONDS", 1)
    monkeypatch.setattr(supervisor, "cancelled", threading.Event())
    executor = open_executor("slurm", slots=2)
    assert ", 1 of " in executor.conditions()["device"]

    def start(name, budget="20000tok", tell=base.say_nothing):
        ended = []

        def work():
            try:
                ended.append(executor.slots()[0].run(job(tmp_path / name, budget), tell))
            except BaseException as error:
                ended.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        return thread, ended

    yield start
    for node in slurm_cluster.NODES:
        cluster.set_state(node, "RESUME")


def is_training(cluster):
    """The process of a contestant that trains in a job of the cluster."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "SLURM_JOB_ID" in process.environ() and "slurm.main" in " ".join(process.cmdline()):
                if any(
                    "train.py" in " ".join(p.cmdline()) for p in process.children(recursive=True)
                ):
                    return process
    return None


@pytest.mark.slow
def test_two_slurm_jobs_run_at_a_time_and_give_the_score_of_this_machine(
    on_slurm, cluster, tmp_path
):
    started = [on_slurm(name, budget="200000tok") for name in ("first", "second")]
    wait_until(lambda: {node for _, _, node in cluster.jobs("RUNNING")} == {*slurm_cluster.NODES})
    for thread, _ in started:
        thread.join()
    here = open_executor().slots()[0].run(job(tmp_path / "here", budget="200000tok"))
    for _, (facts,) in started:
        assert facts["status"] == "ok" and facts["val"]["nats"] == here["val"]["nats"]
    assert (tmp_path / "first/run/model.safetensors").exists()
    wait_until(lambda: not cluster.jobs())
    assert not [*(tmp_path / "runs/.slurm").iterdir()]


@pytest.mark.slow
@pytest.mark.parametrize("killed_by", ["scancel", "kill -9"])
def test_a_slurm_job_that_is_killed_is_done_again(on_slurm, cluster, tmp_path, killed_by):
    said = []
    thread, ended = on_slurm("run", "3s", said.append)
    process, ((number, *_),) = wait_until(lambda: is_training(cluster)), cluster.jobs("RUNNING")
    cluster.call("scancel", number) if killed_by == "scancel" else process.kill()
    thread.join()
    (facts,) = ended
    assert facts["status"] == "ok" and facts["seed"] == 7
    assert any(f"Slurm job {number} ended as" in text and "done again" in text for text in said)
    wait_until(lambda: not cluster.jobs() and not is_training(cluster))


@pytest.mark.slow
def test_a_drained_node_gets_no_job_and_without_nodes_a_job_waits(on_slurm, cluster, monkeypatch):
    monkeypatch.setattr(base, "PATIENT_SECONDS", 2)
    cluster.set_state("one", "DRAIN")
    thread, ended = on_slurm("run", "3s")
    wait_until(lambda: [node for _, _, node in cluster.jobs("RUNNING")] == ["two"])
    cluster.set_state("two", "DRAIN")  # what runs there goes on
    thread.join()
    said = []
    thread, later = on_slurm("later", "3s", said.append)
    wait_until(lambda: said)
    assert "waits (" in said[0] and "drained" in said[0]
    cluster.set_state("one", "RESUME")
    thread.join()
    assert [facts["status"] for facts in ended + later] == ["ok", "ok"] and "begun" in said[-1]


@pytest.mark.slow
def test_a_head_that_is_interrupted_or_killed_leaves_no_job(
    on_slurm, cluster, tmp_path, monkeypatch
):
    thread, ended = on_slurm("cancelled", "60s")
    wait_until(lambda: is_training(cluster))
    supervisor.cancelled.set()
    thread.join()
    supervisor.cancelled.clear()
    wait_until(lambda: not cluster.jobs() and not is_training(cluster))
    assert isinstance(ended[0], supervisor.Cancelled) and not (tmp_path / "cancelled/run").exists()
    code = "import pathlib, sys; sys.path[:0] = [sys.argv[1] + '/tests/executors', sys.argv[1] + '/tests', sys.argv[1]]; import test_executors as t;"
    code += "t.commits.home = lambda: pathlib.Path(sys.argv[2]);"
    code += "e = t.open_executor('slurm'); e.execute('run', t.job(pathlib.Path(sys.argv[2]) / 'x', '60s'))"
    command = [sys.executable, "-c", code, str(ROOT), str(tmp_path)]
    for number in (signal.SIGINT, signal.SIGKILL):
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as head:
            wait_until(lambda: is_training(cluster))
            head.send_signal(number)
        if number == signal.SIGINT:
            wait_until(lambda: not cluster.jobs())
    assert len(cluster.jobs()) == 1  # of the head that was killed: the next one ends it
    thread, ended = on_slurm("next")
    thread.join()
    assert ended[0]["status"] == "ok"
    wait_until(lambda: not cluster.jobs())


@pytest.mark.slow
def test_a_job_that_the_partition_never_starts_says_why(on_slurm, cluster, monkeypatch):
    monkeypatch.setattr(base, "PATIENT_SECONDS", 2)
    monkeypatch.setenv("SBATCH_PARTITION", "short")
    said = []
    thread, ended = on_slurm("run", tell=said.append)
    wait_until(lambda: said)
    supervisor.cancelled.set()
    thread.join()
    assert "waits (Partition" in said[0] and "SBATCH_PARTITION" in said[0]
    wait_until(lambda: not cluster.jobs())
    supervisor.cancelled.clear()
    monkeypatch.setenv("SBATCH_PARTITION", "nowhere")
    with pytest.raises(Refused, match="Invalid partition"):
        open_executor("slurm")
