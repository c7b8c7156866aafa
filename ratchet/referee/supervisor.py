"""Runs an untrusted program whose log, memory, disk, processes stay bounded."""

import ctypes
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import psutil

from ratchet.referee import limits
from ratchet.referee.devices.memory import free_memory
from ratchet.untrusted_text import clean_text

LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
KILL_SECONDS = 0.01  # between two rounds of killing
KILL_ROUNDS = 100  # of one program that forks meanwhile
KILL_ROUNDS_BEFORE = 500  # of all that a killed referee has left


class EndedEarly(Exception):
    """A program ended before it had done its work: `status`, such as "crash", and the reason."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Cancelled(BaseException):
    """The work of this process is to end now; a thread's KeyboardInterrupt."""


cancelled = threading.Event()


def sleep_or_cancel(seconds: float) -> None:
    """Sleep; raises Cancelled as soon as the work is to end."""
    if cancelled.wait(seconds):
        raise Cancelled


def read_tail(log: Path) -> list[str]:
    """Last lines of a log, without names of this machine's folders: ledgers are published."""
    text = log.read_text(encoding="utf-8", errors="replace").strip() if log.exists() else ""
    names = {log.parent: ".", sys.prefix: "python", sys.base_prefix: "python", Path.home(): "~"}
    for folder, name in names.items():
        text = text.replace(f"{folder}/", f"{name}/")
    return [line[:300] for line in text.splitlines()[-limits.TAIL_LINES :]]


class WatchedProcess:
    """An untrusted program in a session of its own: bounded while it runs, killed as a whole.

    argv, environment, folder: as for subprocess.Popen
    log: file for what it prints
    mark: value of RATCHET_RUN in its environment, by which processes that left its tree are found
    channel: a socket that it inherits, which is closed here
    stdin: an open file that it reads
    """

    def __init__(
        self,
        argv: list[str],
        environment: dict[str, str],
        folder: Path,
        log: Path,
        mark: str,
        channel: socket.socket | None = None,
        stdin: IO[bytes] | int = subprocess.DEVNULL,
    ) -> None:
        self.folder, self.mark, self.log = folder, mark, open(log, "wb")
        self.printed_bytes = self.peak_bytes = 0
        self.most_bytes = limits.MEMORY_SHARE * free_memory()
        self.next_check = 0.0
        adopt_orphans()
        self.popen = subprocess.Popen(
            argv,
            env=environment,
            cwd=folder,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[channel.fileno()] if channel else [],
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        if channel:
            channel.close()
        self.output = self.popen.stdout.fileno()
        os.set_blocking(self.output, False)

    def __enter__(self) -> "WatchedProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.log.close()
        self.popen.stdout.close()

    def list_processes(self) -> list[psutil.Process]:
        """The process that was started, with its descendants; [] when it has gone."""
        with suppress(psutil.Error):
            first = psutil.Process(self.popen.pid)
            return [first, *first.children(recursive=True)]
        return []

    def copy_output(self) -> None:
        """Copy what it has printed into the log. Raises EndedEarly when that is too much."""
        with suppress(BlockingIOError):  # there is no more at the moment
            while data := os.read(self.output, 2**16):
                self.printed_bytes += len(data)
                self.log.write(clean_text(data).encode())
                if self.printed_bytes > limits.LOG_BYTES:
                    raise EndedEarly("output", f"it printed more than {limits.LOG_BYTES >> 20} MB")
        self.log.flush()

    def check_limits(self) -> None:
        """Raises EndedEarly when it takes too much memory or disk, or has too many processes."""
        processes = self.list_processes()
        total = sum(map(resident_bytes, processes))
        if total > self.most_bytes:  # pages that forks share are in it many times
            total = sum(map(proportional_bytes, processes))
        self.peak_bytes = max(self.peak_bytes, total)
        if total > self.most_bytes:
            taken, free = total / 2**30, self.most_bytes / 2**30
            raise EndedEarly("memory", f"it took {taken:.1f} GB of memory, {free:.1f} were free")
        if len(processes) > limits.MOST_PROCESSES:
            reason = f"it started more than {limits.MOST_PROCESSES} processes"
            raise EndedEarly("processes", reason)
        if shutil.disk_usage(self.folder).free < limits.LEAST_DISK_BYTES:
            raise EndedEarly("disk", "it filled the disk")

    def supervise(self) -> None:
        """To be called all the while. Raises EndedEarly or Cancelled."""
        sleep_or_cancel(0)
        self.copy_output()
        if time.monotonic() > self.next_check:
            self.next_check = time.monotonic() + limits.CHECK_SECONDS
            self.check_limits()

    def wait(self, seconds: float) -> int:
        """Its exit code. Raises EndedEarly("timeout") after that many seconds."""
        deadline = time.monotonic() + seconds
        while self.popen.poll() is None:
            if time.monotonic() > deadline:
                raise EndedEarly("timeout", f"it did not end within {seconds:.0f} seconds")
            self.supervise()
            time.sleep(limits.POLL_SECONDS)
        self.copy_output()
        return self.popen.returncode

    def receive_message(
        self,
        channel: socket.socket,
        seconds: float,
        too_late: str,
        look: Callable[[], None] = lambda: None,
    ) -> tuple[dict[str, Any], float]:
        """(its next message, when that came). Meanwhile look() is called again and again.

        Raises EndedEarly when it ends first or, for the reason `too_late`, after that many seconds.
        """
        line, arrived = self._receive_line(channel, time.monotonic() + seconds, too_late, look)
        try:
            return dict(json.loads(line)), arrived
        except (ValueError, TypeError, RecursionError):
            raise EndedEarly("crash", "it sent the referee what is no message") from None

    def _receive_line(
        self,
        channel: socket.socket,
        deadline: float,
        too_late: str,
        look: Callable[[], None],
    ) -> tuple[bytes, float]:
        data, arrived = b"", 0.0
        with selectors.DefaultSelector() as selector:
            selector.register(channel, selectors.EVENT_READ)
            while not data.endswith(b"\n"):
                if time.monotonic() > deadline:
                    raise EndedEarly("timeout", too_late)
                if selector.select(limits.POLL_SECONDS):
                    piece, arrived = channel.recv(limits.MESSAGE_BYTES), time.monotonic()
                    data += piece
                    if len(data) > limits.MESSAGE_BYTES:
                        raise EndedEarly("crash", "it sent the referee too long a message")
                    if not piece:
                        raise self._crash()
                self.supervise()
                look()
                if self.popen.poll() is not None and not selector.select(0):
                    raise self._crash()
        return data.splitlines()[-1], arrived

    def _crash(self) -> EndedEarly:
        """What to raise when it has ended: its last words, how it ended."""
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(limits.EXIT_SECONDS)
        self.copy_output()
        code = self.popen.poll()
        text = Path(self.log.name).read_text(encoding="utf-8", errors="replace")
        lines = [line for line in text.splitlines() if line.strip()]
        last = lines[-1].removeprefix("ratchet: ")[:300] if lines else "no output"
        end = f"killed by {signal_name(-code)}" if code and code < 0 else f"exit code {code}"
        return EndedEarly("crash", f"{last} ({end})")

    def kill(self) -> None:
        """Kill all of it: the session, the tree, the processes that carry its mark."""
        for _ in range(KILL_ROUNDS):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.popen.pid, signal.SIGKILL)
            left = [*self.list_processes(), *find_marked(self.mark)]
            kill_processes(left)
            self.popen.poll()
            reap_children(left, self.popen.pid)
            if not any(map(is_alive, left)):
                break
            time.sleep(KILL_SECONDS)
        self.popen.wait()


def signal_name(number: int) -> str:
    """Example: 9 -> "SIGKILL", 40 -> "signal 40": real-time signals have no name."""
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def resident_bytes(process: psutil.Process) -> int:
    """Memory of a process; 0 when it has gone."""
    with suppress(psutil.Error):
        return process.memory_info().rss
    return 0


def proportional_bytes(process: psutil.Process) -> int:
    """Memory of a process, pages that it shares by its part of them: slow to find out."""
    with suppress(psutil.Error, AttributeError):
        return process.memory_full_info().pss
    return 0


def is_alive(process: psutil.Process) -> bool:
    """False for a zombie, too."""
    with suppress(psutil.Error):
        return process.is_running() and process.status() != "zombie"
    return False


def adopt_orphans() -> None:
    """Have this process be the parent of what its children leave behind (Linux)."""
    if LIBC:
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent() -> None:
    """Called in a new process: a referee that is killed takes it along (Linux)."""
    if LIBC:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def kill_processes(processes: Iterable[psutil.Process]) -> None:
    """Send all of them SIGKILL; some may have gone."""
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def reap_children(processes: Iterable[psutil.Process], first: int) -> None:
    """Take note of the end of processes, except the first, which subprocess.Popen waits for."""
    for process in processes:
        if process.pid != first:
            with suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)


def kill_marked(*marks: str) -> None:
    """Kill what a killed referee has left; returns when it has ended."""
    for _ in range(KILL_ROUNDS_BEFORE):
        marked = [process for mark in marks for process in find_marked(mark)]
        left = [process for process in marked if is_alive(process)]
        if not left:
            return
        kill_processes(left)
        time.sleep(KILL_SECONDS)


def find_marked(mark: str) -> list[psutil.Process]:
    """Processes, other than this one, whose environment says RATCHET_RUN=mark."""
    marked = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get("RATCHET_RUN") == mark and process.pid != os.getpid():
                marked.append(process)
    return marked
