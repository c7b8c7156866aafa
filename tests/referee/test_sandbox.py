"""sandbox.py: what it forbids is tried; what it lets through is used."""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from ratchet.arena.files import Refused
from ratchet.arena.hardware.shared_memory import create_shared
from ratchet.arena.model_process.rooms import copy_contract
from ratchet.referee import sandbox
from ratchet.referee.sandbox import View

CONFINED = [level for level in sandbox.LEVELS[:2] if sandbox.level_works(level)]
confined = pytest.mark.parametrize("level", CONFINED)
linux = pytest.mark.skipif(sys.platform != "linux", reason="there is a sandbox on Linux only")
PYTHON = sandbox.PYTHON


def run(script, view, level, *args, **options):
    argv = sandbox.confined_command([*PYTHON, "-c", script, *map(str, args)], view, level)
    return subprocess.run(argv, capture_output=True, timeout=30, **options, encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    (folder := tmp_path / "run").mkdir()
    return folder


# --------------------------------------------------------------------------------------------------
# What is forbidden


@confined
@pytest.mark.parametrize("device, own_pids", [("cpu", True), ("cuda:0", True), ("cuda:0", False)])
def test_all_claims_hold(level, own_pids, device):
    proof = sandbox.prove_claims(
        level, lambda folder: View(write=(folder,), own_pids=own_pids, device=device)
    )
    failed = {claim for claim, holds, _ in proof if not holds}
    known = set() if own_pids else {"dies with the referee, children too"}
    if level == "landlock" and device != "cpu":
        known |= {"reaches no unix socket by its path"}
    assert failed == known and len(proof) == len(sandbox.ATTEMPTS) + 1


@linux
def test_a_claim_can_fail():
    proof = {claim: holds for claim, holds, _ in sandbox.prove_claims("none")}
    by_chance = {
        "reads no SSH keys",
        "reads no /etc/shadow",
        "lists no home folder",
        "has no capability",
    }
    by_chance |= {"writes no setting of the kernel", "marks no file that it may only read"}
    assert not any(holds for claim, holds in proof.items() if claim not in by_chance)
    if os.geteuid() == 0:
        assert not any(
            proof[claim] for claim in by_chance - {"reads no SSH keys", "lists no home folder"}
        )


@linux
def test_a_process_that_cannot_start_proves_nothing(monkeypatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: "/nonexistent/bwrap")
    [(claim, holds, why)] = sandbox.prove_claims("bubblewrap")
    assert (claim, holds) == ("starts confined", False) and "/nonexistent/bwrap" in why
    assert not sandbox.level_works.__wrapped__("bubblewrap")


@pytest.mark.skipif(
    not CONFINED or os.geteuid() != 0, reason="needs root, who can become somebody else"
)
def test_all_claims_hold_for_an_ordinary_user():
    python, open_folder = "/usr/bin/python3", Path(tempfile.mkdtemp(dir="/tmp"))
    script = """import json, sys
sys.path.insert(0, sys.argv[1])
import sandbox
def see(folder): return sandbox.View(write=(folder,), texts=True)
print(json.dumps({level: sandbox.prove_claims(level, see) for level in sys.argv[2:]}))
"""
    try:
        shutil.copy(ROOT / "ratchet/referee/sandbox.py", open_folder)
        open_folder.chmod(0o755)
        nobody = dict(user=65534, group=65534, extra_groups=[])
        version = subprocess.run(
            [python, "-c", "import sys; print(sys.version_info >= (3, 11))"],
            **nobody,
            capture_output=True,
            encoding="utf-8",
        )
        if version.stdout != "True\n":
            pytest.skip("no Python that an ordinary user can start")
        argv = [python, "-B", "-c", script, open_folder, *CONFINED]
        done = subprocess.run(
            argv, cwd="/", capture_output=True, timeout=60, **nobody, encoding="utf-8"
        )
    finally:
        shutil.rmtree(open_folder)
    assert done.returncode == 0, done.stderr
    for level, proof in json.loads(done.stdout).items():
        failed = [claim for claim, holds, _ in proof if not holds]
        assert failed == ["reads no docs of a library"], level


REFUSALS = """
import ctypes, errno, fcntl, json, os, socket, sys
libc, results = ctypes.CDLL(None, use_errno=True), {}
for name, number in json.loads(sys.argv[1]).items():
    results[name] = errno.errorcode[ctypes.get_errno()] if libc.syscall(number, 0, 0, 0, 0, 0, 0) < 0 else ""
results["clone"] = libc.syscall(56 if os.uname().machine == "x86_64" else 220, 0x10000000 | 17, 0, 0, 0, 0)
try: fcntl.ioctl(0, 0x5412, b"x")
except OSError as error: results["type"] = errno.errorcode[error.errno]
a, b = socket.socketpair()
a.send(b"x"); b.recv(1)
print(json.dumps(results))
"""


@confined
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are x86_64's")
def test_system_calls_are_refused(level, folder):
    calls = dict(
        io_uring_setup=425, bpf=321, mount=165, unshare=272, keyctl=250, pidfd_getfd=438, clone3=435
    )
    done = run(REFUSALS, View(write=(folder,)), level, json.dumps(calls), stdin=subprocess.DEVNULL)
    expected = {name: "EPERM" for name in calls} | dict(clone3="ENOSYS", clone=-1, type="EPERM")
    assert json.loads(done.stdout) == expected, done.stderr


IGNORES = """
import ctypes, errno, os, signal, sys
answers = []
for number in (signal.SIGCHLD, signal.SIGUSR1):
    try: answers.append(str(signal.signal(number, signal.SIG_IGN)))
    except OSError as error: answers.append(errno.errorcode[error.errno])
low_half_zero = ctypes.c_void_p(2**40)
result = ctypes.CDLL(None, use_errno=True).syscall(int(sys.argv[1]), 17, low_half_zero, None, 8)
print(*answers, errno.errorcode[ctypes.get_errno()], signal.getsignal(signal.SIGCHLD))
"""


@confined
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are x86_64's")
def test_no_child_is_forgotten_where_time_is_counted(level, folder):
    seen = [
        run(IGNORES, View(write=(folder,), counted=counted), level, 13).stdout.split()
        for counted in (True, False)
    ]
    assert seen == [
        ["EPERM", "0", "EPERM", "0"],
        ["0", "0", "EFAULT", "1"],
    ]


@confined
def test_the_network_is_there_on_request(level, folder):
    script = "import socket; socket.socket(); print(len(socket.if_nameindex()), open('/etc/hosts').read())"
    done = run(script, View(write=(folder,), network=True), level)
    assert int(done.stdout.split()[0]) == len(socket.if_nameindex()), done.stderr
    assert Path("/etc/hosts").read_text(encoding="utf-8") in done.stdout


# --------------------------------------------------------------------------------------------------
# What is let through


LOOK = """
import json, os, sys
def tried(function, *args):
    try: return function(*args)
    except OSError: return None
def write(path):
    with open(path, "a") as file: file.write("x")
    return True
print(json.dumps([tried(lambda p: open(p).read(), path) for path in sys.argv[1:]]
    + [tried(write, path) for path in sys.argv[1:]] + [os.getcwd()]))
"""


@confined
def test_a_view_shows_files_folders_and_links(level, tmp_path):
    for name in ("data/one", "data/open/two", "hidden/three", "alone"):
        (path := tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name, encoding="utf-8")
    (tmp_path / "link").symlink_to("data")
    (tmp_path / "far").symlink_to(tmp_path / "link" / "open")
    files = [
        tmp_path / name
        for name in ("link/one", "far/two", "data/open/two", "hidden/three", "alone")
    ]
    view = View(
        read=(tmp_path / "link", tmp_path / "alone", tmp_path / "missing"),
        write=(tmp_path / "far",),
    )
    done = run(LOOK, view, level, *files, cwd=tmp_path / "hidden")
    seen = json.loads(done.stdout)
    assert seen[:5] == ["one", "two", "two", None, "alone"]
    assert seen[5:10] == [None, True, True, None, None] and seen[10] == str(
        tmp_path / "data" / "open"
    )


@confined
def test_a_gpus_driver_is_seen_wherever_it_is(level, tmp_path, monkeypatch):
    """On NixOS by links, in other places by the variable; what lies beside it stays hidden."""
    store, home = tmp_path / "store/lib", tmp_path / "home"
    for folder in (store, home):
        folder.mkdir(parents=True)
        (folder / "libcuda.so.1").write_text("driver", encoding="utf-8")
        (folder / "libnvidia-ml.so.1").write_text("nvml", encoding="utf-8")
        (folder / "secret").write_text("secret", encoding="utf-8")
    (tmp_path / "opengl-driver").symlink_to(store.parent)
    monkeypatch.setattr(sandbox, "DRIVER_FOLDERS", [f"{tmp_path}/opengl-driver/lib"])
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{tmp_path}/none::{home}")
    names = "libcuda.so.1", "libnvidia-ml.so.1", "secret"
    files = [f"{folder}/{name}" for folder in sandbox.DRIVER_FOLDERS + [home] for name in names]
    (write := tmp_path / "run").mkdir()
    for device, shown in (("cuda:0", ["driver", "nvml", None]), ("cpu", [None] * 3)):
        done = run(LOOK, View(write=(write,), device=device), level, *files, cwd=write)
        assert json.loads(done.stdout)[:6] == shown * 2


@confined
def test_a_visible_working_folder_stays(level, folder):
    (inner := folder / "inner").mkdir()
    done = run(
        "import os; print(os.getcwd()); open('here', 'w')", View(write=(folder,)), level, cwd=inner
    )
    assert done.stdout == f"{inner}\n" and (inner / "here").exists()


@pytest.mark.parametrize("level", [*CONFINED, "none"])
def test_exit_codes_and_descriptors_pass(level, folder):
    view = View(write=(folder,))
    assert [run(f"raise SystemExit({code})", view, level).returncode for code in (0, 7)] == [0, 7]
    assert run("import os; os.kill(os.getpid(), 9)", view, level).returncode in (137, -9)
    reader, writer = os.pipe()
    run(
        "import os, sys; os.write(int(sys.argv[1]), b'hello')",
        view,
        level,
        writer,
        pass_fds=[writer],
    )
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        assert pipe.read() == "hello"
    argv = sandbox.confined_command(["/nonexistent"], view, level)
    done = subprocess.run(argv, capture_output=True, encoding="utf-8")
    assert done.returncode == 127 and "/nonexistent can't be started" in done.stderr


@confined
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_all_die_with_the_process_that_was_started(level, number, folder):
    script = (
        "import os, time\nif not os.fork(): os.setsid(); print('ready', flush=True)\ntime.sleep(20)"
    )
    argv = sandbox.confined_command([*PYTHON, "-c", script], View(write=(folder,)), level)
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert select.select([process.stdout], [], [], 5)[0] and process.stdout.read() == b""


@pytest.mark.parametrize("level", [*CONFINED, "none"])
def test_limits(level, folder):
    script = "import resource as r, json\nfile = open('file', 'wb')\n"
    script += "try: file.write(bytes(2000)); file.flush()\nexcept OSError as e: code = e.errno\n"
    script += "print(json.dumps([code, *map(r.getrlimit, [r.RLIMIT_CORE, r.RLIMIT_NPROC])]), flush=True)\n"
    script += "import os; os._exit(0)"  # not to flush the file again
    done = run(script, View(write=(folder,), file_bytes=1000, processes=99), level, cwd=folder)
    code, core, processes = json.loads(done.stdout)
    assert code == 27 and core == [0, 0] and (folder / "file").stat().st_size == 1000
    assert (processes == [99, 99]) == (level != "none")


@linux
def test_the_memory_killer_prefers_a_contestant(folder):
    for level in [*CONFINED, "none"]:
        assert (
            run("print(open('/proc/self/oom_score_adj').read())", View(), level).stdout.strip()
            == "1000"
        )


STANDS_IN = """
import socket, sys
from ratchet.arena.hardware.shared_memory import open_host_tensor
import torch
try:
    open(sys.argv[1]).close()
    print("seen")
except OSError:
    print("unseen")
_, descriptors, _, _ = socket.recv_fds(socket.socket(fileno=0), 1, 1)
open_host_tensor(descriptors[0], (4,), torch.float32).fill_(4)
"""


@confined
def test_a_script_that_stands_in_for_python_shares_memory(level, folder):
    """It doesn't see the repository, which the editable installation names: a ledger would be
    there.
    """
    code, out = folder / "code", folder / "out"
    code.mkdir()
    out.mkdir()
    copy_contract(code)
    python = sandbox.write_python(folder / "python", View(read=(code,), write=(out,)), level)
    shared = create_shared((4,), torch.float32, torch.device("cpu"))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(ours, [b"x"], [shared.descriptor])
        argv = [python, "-c", STANDS_IN, ROOT / "LOG.md"]
        done = subprocess.run(argv, stdin=theirs, capture_output=True, cwd=code, text=True)
    os.close(shared.descriptor)
    assert done.stdout == "unseen\n" and (shared.tensor == 4).all(), done.stderr


# --------------------------------------------------------------------------------------------------
# Levels


def test_a_bound_is_kept(monkeypatch):
    for bound in sandbox.LEVELS:
        monkeypatch.setenv("RATCHET_ISOLATION", bound)
        assert sandbox.LEVELS.index(sandbox.best_level()) >= sandbox.LEVELS.index(bound)
    assert sandbox.best_level() == "none"
    monkeypatch.setenv("RATCHET_ISOLATION", "docker")
    with pytest.raises(Refused, match="'docker': set it to one of bubblewrap, landlock, none"):
        sandbox.best_level()
    monkeypatch.delenv("RATCHET_ISOLATION")
    assert sandbox.best_level() == (CONFINED + ["none"])[0]


def test_an_unknown_level_is_an_error():
    with pytest.raises(ValueError, match="no isolation level 'docker'"):
        sandbox.confined_command(["true"], View(), "docker")


@confined
def test_without_landlock_nothing_runs_at_its_level(level, folder):
    """Where the kernel refuses rules: code 125 at level landlock, bubblewrap goes on alone."""
    broken = folder / "sandbox.py"
    source = sandbox.LAUNCHER.read_text(encoding="utf-8")
    broken.write_text(
        source.replace('version = call_libc("syscall", 444', 'version = call_libc("syscall", 999'),
        encoding="utf-8",
    )
    argv = [
        str(broken) if arg == str(sandbox.LAUNCHER) else arg
        for arg in sandbox.confined_command(
            ["echo", "ran"], View(write=(folder,), texts=True), level
        )
    ]
    done = subprocess.run(argv, capture_output=True, encoding="utf-8")
    if level == "landlock":
        assert done.returncode == 125 and not done.stdout
        assert done.stderr.startswith("ratchet: this machine can't confine a process (landlock:")
    else:
        assert (done.returncode, done.stdout) == (0, "ran\n")
