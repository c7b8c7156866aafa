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

from ratchet.arena.files import read_untrusted
from ratchet.arena.hardware.processes import cpu_seconds, list_tree
from ratchet.referee import limits
from ratchet.referee.devices.memory import free_memory
from ratchet.referee.devices.unmapped import unmapped_bytes
from ratchet.untrusted_text import clean_text

LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
MARK_BYTES = 2**16  # of a process's environment, in which its mark is looked for
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
    text = read_log(log).strip()
    names = {log.parent: ".", sys.prefix: "python", sys.base_prefix: "python", Path.home(): "~"}
    for folder, name in names.items():
        text = text.replace(f"{folder}/", f"{name}/")
    return [line[:300] for line in text.splitlines()[-limits.TAIL_LINES :]]


def read_log(log: Path) -> str:
    """What a program has printed; "" where there is no log."""
    try:
        return read_untrusted(log).decode(errors="replace")
    except OSError:
        return ""


class WatchedProcess:
    """An untrusted program in a session of its own: bounded while it runs, killed as a whole.

    What it takes is looked at in a thread of its own, so that this delays neither a message nor the
    kill.

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
        self.printed_bytes = 0
        self.looks = Looks(self, limits.MEMORY_SHARE * free_memory())
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
        self.looks.start()

    def __enter__(self) -> "WatchedProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.looks.stop()
        with suppress(EndedEarly):  # what it printed last
            self.copy_output()
        self.log.close()
        self.popen.stdout.close()

    @property
    def peak_bytes(self) -> int:
        """The most memory that it was seen to take."""
        return self.looks.peak_bytes

    @property
    def peak_bytes_of_others(self) -> int:
        """The same, without the process that was started itself."""
        return self.looks.peak_bytes_of_others

    def list_processes(self) -> list[psutil.Process]:
        """The process that was started, with its descendants; [] when it has gone."""
        if self.popen.returncode is not None:  # its number may be another one's by now
            return []
        return list_tree(self.popen.pid)

    def copy_output(self) -> None:
        """Copy what it has printed into the log. Raises EndedEarly when that is too much."""
        with suppress(BlockingIOError):  # there is no more at the moment
            while data := os.read(self.output, 2**16):
                self.printed_bytes += len(data)
                self.log.write(clean_text(data).encode())
                if self.printed_bytes > limits.LOG_BYTES:
                    raise EndedEarly("output", f"it printed more than {limits.LOG_BYTES >> 20} MB")
        self.log.flush()

    def supervise(self) -> None:
        """To be called all the while; takes no time. Raises EndedEarly or Cancelled."""
        sleep_or_cancel(0)
        self.copy_output()
        if self.looks.end:
            raise self.looks.end

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
        self, channel: socket.socket, seconds: float, too_late: str
    ) -> tuple[dict[str, Any], float]:
        """(its next message, when that came). Raises EndedEarly as receive_line() does."""
        line, arrived = self.receive_line(channel, seconds, too_late)
        return parse_message(line), arrived

    def receive_line(
        self, channel: socket.socket, seconds: float, too_late: str
    ) -> tuple[bytes, float]:
        """(what it says next, when that was said in full): nothing is done after that moment.

        Raises EndedEarly when it ends first or, for the reason `too_late`, after that many seconds.
        """
        data, deadline = b"", time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(channel, selectors.EVENT_READ)
            while True:
                has_ended = self.popen.poll() is not None
                if selector.select(0 if has_ended else limits.POLL_SECONDS):
                    piece, arrived = channel.recv(limits.MESSAGE_BYTES), time.monotonic()
                    data += piece
                    if data.endswith(b"\n") and arrived <= deadline:
                        return data.splitlines()[-1], arrived
                    has_ended = not piece
                if has_ended:
                    raise self._crash()
                if len(data) > limits.MESSAGE_BYTES:
                    raise EndedEarly("crash", "it sent the referee too long a message")
                if time.monotonic() > deadline:
                    raise EndedEarly("timeout", too_late)
                self.supervise()

    def _crash(self) -> EndedEarly:
        """What to raise when it has ended: its last words, how it ended."""
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(limits.EXIT_SECONDS)
        self.copy_output()
        code = self.popen.poll()
        text = read_log(Path(self.log.name))
        lines = [line for line in text.splitlines() if line.strip()]
        last = lines[-1].removeprefix("ratchet: ")[:300] if lines else "no output"
        end = f"killed by {signal_name(-code)}" if code and code < 0 else f"exit code {code}"
        return EndedEarly("crash", f"{last} ({end})")

    def strike(self) -> None:
        """End it now, with one call to the kernel.

        With its session ends the first process of its namespace, where it has one, and with that
        all that is in there. Of what has left the session elsewhere ends what a look has seen.
        """
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        kill_processes(self.looks.processes)

    def kill(self) -> None:
        """Kill all of it: the session, the tree, the processes that carry its mark."""
        for _ in range(KILL_ROUNDS):
            self.strike()
            left = [*self.looks.processes, *self.list_processes(), *find_marked(self.mark)]
            kill_processes(left)
            self.popen.poll()
            reap_children(left, self.popen.pid)
            if not any(map(is_alive, left)):
                break
            time.sleep(KILL_SECONDS)
        self.popen.wait()


class Looks:
    """Looks at what a WatchedProcess takes, again and again, in a thread of their own.

    end: why it must end, once it must
    processes: that the last look has seen
    cpu_seconds: that these had used
    counts_unmapped: whether memory counts, too, that no process has mapped; this takes CPU time
    """

    def __init__(self, process: WatchedProcess, most_bytes: float) -> None:
        self.process, self.most_bytes = process, most_bytes
        self.end: Exception | None = None
        self.processes: list[psutil.Process] = []
        self.peak_bytes = self.peak_bytes_of_others = 0
        self.cpu_seconds = 0.0
        self.counts_unmapped = False
        self.more: list[Callable[[], None]] = []  # other looks, which may raise EndedEarly
        self._shared: dict[psutil.Process, int] = {}  # memory, of this round
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep_looking, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Called when the processes have ended: no look lasts long then."""
        self._stopped.set()
        self._thread.join()

    def _keep_looking(self) -> None:
        while not self.end:
            try:
                self.look_once()
            except Exception as end:  # raised again by supervise()
                self.end = end
            if self._stopped.wait(limits.CHECK_SECONDS):
                return

    def look_once(self) -> None:
        """Raises EndedEarly when it takes too much memory or disk, or has too many processes."""
        self.processes = self.process.list_processes()
        self.cpu_seconds = sum(map(cpu_seconds, self.processes))
        if len(self.processes) > limits.MOST_PROCESSES:
            reason = f"it started more than {limits.MOST_PROCESSES} processes"
            raise EndedEarly("processes", reason)
        if shutil.disk_usage(self.process.folder).free < limits.LEAST_DISK_BYTES:
            raise EndedEarly("disk", "it filled the disk")
        self._check_memory()
        for look in self.more:
            look()

    def _check_memory(self) -> None:
        first = self.process.popen.pid
        numbers = [process.pid for process in self.processes]
        unmapped = unmapped_bytes(numbers) if self.counts_unmapped else 0
        total = unmapped + sum(map(resident_bytes, self.processes))
        others = [process for process in self.processes if process.pid != first]
        highest = max(map(highest_bytes, others), default=0)
        of_others = max(highest, unmapped + sum(map(resident_bytes, others)))
        self.peak_bytes_of_others = max(self.peak_bytes_of_others, of_others)
        highest = max([highest, *map(highest_bytes, self.processes)])
        if total > self.most_bytes:  # pages that forks share are in it many times
            total = unmapped + self._proportional_bytes(time.monotonic() + limits.CHECK_SECONDS)
        self.peak_bytes = max(self.peak_bytes, total, highest)
        if total > self.most_bytes:
            taken, free = total / 2**30, self.most_bytes / 2**30
            raise EndedEarly("memory", f"it took {taken:.1f} GB of memory, {free:.1f} were free")

    def _proportional_bytes(self, deadline: float) -> int:
        """Memory of all, shared pages counted once; 0 while a round over them is not complete.

        To look at one that has many pages takes long: a round goes on at the next look.
        """
        for process in self.processes:
            if process not in self._shared:
                if self._stopped.is_set() or time.monotonic() > deadline:
                    return 0
                self._shared[process] = proportional_bytes(process)
        total = sum(self._shared[process] for process in self.processes)
        self._shared.clear()
        return total


def parse_message(line: bytes) -> dict[str, Any]:
    """What a line of a contestant's says. Raises EndedEarly("crash")."""
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError, RecursionError):
        raise EndedEarly("crash", "it sent the referee what is no message") from None


def signal_name(number: int) -> str:
    """Example: 9 -> "SIGKILL", 40 -> "signal 40": real-time signals have no name."""
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def highest_bytes(process: psutil.Process) -> int:
    """The most memory that a process ever had, between two looks, too; 0 where nobody knows."""
    with suppress(OSError, ValueError, StopIteration):
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8", errors="replace")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 2**10
    return 0


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
        if process.pid != first and process.is_running():
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
    """Processes, other than this one, whose environment says RATCHET_RUN=mark near its beginning.

    A contestant could make the rest of it long, so that to read it takes long.
    """
    marked = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and read_mark(process) == mark:
                marked.append(process)
    return marked


def read_mark(process: psutil.Process) -> str | None:
    """RATCHET_RUN in a process's environment, None if it has none. Raises OSError, psutil.Error."""
    if sys.platform != "linux":
        return process.environ().get("RATCHET_RUN")
    with open(f"/proc/{process.pid}/environ", "rb") as file:
        variables = file.read(MARK_BYTES).split(b"\0")
    marks = [name for name in variables if name.startswith(b"RATCHET_RUN=")]
    return os.fsdecode(marks[0].partition(b"=")[2]) if marks else None
