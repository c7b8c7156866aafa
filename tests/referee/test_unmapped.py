"""Memory that no process has mapped."""

import mmap
import os
import subprocess
import sys

import pytest

from ratchet.arena.hardware.processes import list_tree
from ratchet.referee import sandbox
from ratchet.referee.devices import unmapped

SIZE = 2**24


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has such a /proc")
def test_shared_pages_count_though_they_were_given_back(monkeypatch):
    before = unmapped.unmapped_bytes([os.getpid()])
    with mmap.mmap(-1, SIZE) as pages:
        pages.write(bytes(SIZE))
        pages.madvise(mmap.MADV_DONTNEED)
        assert unmapped.unmapped_bytes([os.getpid(), os.getpid()]) - before == SIZE
        monkeypatch.setattr(
            unmapped, "MAP_FILES", "/proc/{}/none/{}-{}"
        )  # as if others than root looked
        assert unmapped.unmapped_bytes([os.getpid()]) >= SIZE
    assert unmapped.unmapped_bytes([2**22 + 1]) == 0, "a process that has gone"


def test_shared_pages_are_known_by_whatever_name_a_program_gives_them():
    """As Linux tells of them since 6.2, where it was built with names for memory."""
    maps = b"""7f0a00000000-7f0a01000000 rw-s 00000000 00:01 2051  /dev/zero (deleted)
7f0a01000000-7f0a02000000 rw-s 00000000 00:01 2052  [anon_shmem:mine]
7f0a02000000-7f0a03000000 rw-p 00000000 00:00 0     [anon:mine]
7f0a03000000-7f0a04000000 r--s 00000000 08:01 2053  /usr/lib/locale
"""
    assert [inode for *_, inode in unmapped.SHARED.findall(maps)] == [b"2051", b"2052"]


@pytest.mark.skipif(sandbox.best_level() == "none", reason="nothing is apart")
def test_files_in_memory_count_that_only_a_sandbox_sees(tmp_path):
    """The file has no name; at this level of the sandbox there is memory in one of the folders."""
    program = f"""
import tempfile
for folder in "/tmp", "/dev/shm":
    try:
        file = tempfile.TemporaryFile(dir=folder, buffering=0)
    except OSError:
        continue
    file.write(bytes({SIZE}))
    break
print("ready", flush=True)
input()
"""
    view = sandbox.View(write=(tmp_path,), texts=True)
    argv = sandbox.confined_command([*sandbox.PYTHON, "-c", program], view, sandbox.best_level())
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(argv, **pipes) as process:
        assert process.stdout.readline() == b"ready\n"
        numbers = [each.pid for each in list_tree(process.pid)]
        assert SIZE <= unmapped.unmapped_bytes(numbers) < SIZE + 2**20
        process.kill()
