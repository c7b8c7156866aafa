"""Nothing that a run can reach tells a later one anything: all is compared before and after."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT

from ratchet.arena.definition import find_arena
from ratchet.referee import sandbox, trial
from ratchet.referee.job import Job
from ratchet.referee.source import Source

ORDINARY_USER = 65534
GET_FLAGS, GET_ATTRIBUTES = 0x80086601, 0x801C581F  # FS_IOC_*, x86-64 and arm64
SHARED_MEMORY = 0x7261746F  # a key of System V's
# tries to leave something on all that it can name or was given; needs no library
REMEMBERS = """
import ctypes, fcntl, itertools, os, socket, struct, time
from contextlib import suppress
from pathlib import Path
channel = socket.socket(fileno=int(os.environ["RATCHET_REFEREE"]))
channel.sendall(b'{"phase": "train", "rows": 8}\\n')
_, (given,), _, _ = socket.recv_fds(channel, 100, 1)
arena = Path(os.environ["RATCHET_CACHE"], os.environ["RATCHET_ARENA"])
code = Path(__file__).parent
named = [arena, *(arena / name for name in ("arena.json", "tokenizer.json", "train.tokens"))]
targets = [given, f"/proc/self/fd/{given}", *named, code, code / "prepare.py"]
libc = ctypes.CDLL(None, use_errno=True)

def leave_on_descriptor(number):
    flags = bytearray(struct.pack("l", 0x40))  # no dump
    attributes = bytearray(struct.pack("=IIIII8x", 0x80, 0, 0, 7, 0))  # a project's id
    yield lambda: fcntl.ioctl(number, 0x40086602, flags)
    yield lambda: fcntl.ioctl(number, 0x401C5820, attributes)
    yield lambda: fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    yield lambda: os.posix_fallocate(number, 0, 2**20)
    yield lambda: os.ftruncate(number, 7)

def leave_on(target):
    yield lambda: os.setxattr(target, "user.learned", b"weights")
    yield lambda: os.utime(target, (7, 7))
    yield lambda: os.chown(target, 1, 1)
    yield lambda: os.chmod(target, 0o641)
    yield lambda: os.write(os.open(target, os.O_RDWR), b"weights")
    yield lambda: Path(target, "learned").write_bytes(b"weights")
    number = target
    with suppress(OSError, TypeError):
        number = os.open(target, os.O_RDONLY)
    if isinstance(number, int):
        yield from leave_on_descriptor(number)

def leave_elsewhere():
    for name in ("/tmp/learned", "/var/tmp/learned", "/dev/shm/learned", "/dev/mqueue/learned"):
        yield lambda: Path(name).write_bytes(b"weights")
    yield lambda: Path(os.environ["TORCHINDUCTOR_CACHE_DIR"], "learned").write_bytes(b"weights")
    yield lambda: libc.shmget(KEY, 4096, 0o1600)
    for keyring in (-4, -5):  # of the user, of its session
        yield lambda: libc.syscall(248, b"user", b"learned", b"weights", 7, keyring)

for attempt in itertools.chain(*map(leave_on, targets), leave_elsewhere()):
    with suppress(OSError, TypeError, ValueError):
        attempt()
channel.sendall(b'{"phase": "score"}\\n')
time.sleep(60)
""".replace("KEY", str(SHARED_MEMORY))


def describe_file(path):
    """All that can be found out about a file; it is read first, as that may change a date."""
    data = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    names = {name: os.getxattr(path, name).hex() for name in os.listxattr(path)}
    seen, number = [data, names, [*os.stat(path)], path.stat().st_ctime_ns], os.open(path, 0)
    for call, size in ((GET_FLAGS, 8), (GET_ATTRIBUTES, 28)):
        with suppress(OSError):
            seen.append(fcntl.ioctl(number, call, bytes(size)).hex())
    fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody holds it
    os.close(number)
    return seen


def describe_machine(folder):
    """{what a run may touch: what it is like}."""
    paths = [folder, *sorted(folder.rglob("*"))]
    seen = {str(path): describe_file(path) for path in paths}
    for name in ("/tmp/learned", "/var/tmp/learned", "/dev/shm/learned", "/dev/mqueue/learned"):
        seen[name] = os.path.exists(name)
    seen["shared memory"] = str(SHARED_MEMORY) in Path("/proc/sysvipc/shm").read_text("utf-8")
    with suppress(OSError):
        seen["keys"] = "learned" in Path("/proc/keys").read_text("utf-8")
    return seen


def main(folder, level):
    """One run; prints what was changed, and what a kept cache holds."""
    arena = find_arena("tiny")
    source = Source("remembers", "", REMEMBERS.encode())
    job = Job(source, 7, "20s", arena, Path(folder, "run"), Path(folder, "compiled"))
    trial.prepare_folders(job)
    before = describe_machine(arena.folder)
    trial.compete(job, level, trial.Clock(), {})
    after = describe_machine(arena.folder)
    changed = [name for name in before | after if before.get(name) != after.get(name)]
    kept = [path.name for path in job.compiled.rglob("*") if path.is_file()]
    print(json.dumps({"changed": changed, "kept": kept}))


def can_start_as(user):
    argv = [sys.executable, "-c", "import psutil, numpy"]
    with suppress(PermissionError):
        return os.getuid() == 0 and not subprocess.run(argv, user=user, group=user).returncode
    return False


@pytest.mark.parametrize("as_root", [True, False], ids=["root", "user"])
@pytest.mark.parametrize("level", ["bubblewrap", "landlock"])
def test_a_run_leaves_nothing_to_a_later_one(arena, level, as_root):
    user = None if as_root else ORDINARY_USER
    if not sandbox.level_works(level) or not (os.getuid() == 0 if as_root else can_start_as(user)):
        pytest.skip("this machine can't try that")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        shutil.copytree(arena.folder, Path(folder, "cache/tiny"))
        if user:
            subprocess.run(["chown", "-R", f"{user}:{user}", folder], check=True)
        argv = [sys.executable, __file__, folder, level]
        paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
        environment = os.environ | {"RATCHET_CACHE": f"{folder}/cache", "PYTHONPATH": paths}
        environment |= {"HOME": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            argv, env=environment, user=user, group=user, capture_output=True, encoding="utf-8"
        )
        assert done.returncode == 0, done.stderr
        seen = json.loads(done.stdout.splitlines()[-1])
        assert seen == {"changed": [], "kept": []}


if __name__ == "__main__":
    main(*sys.argv[1:])
