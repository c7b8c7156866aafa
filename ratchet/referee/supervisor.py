"""Guards: runs an untrusted program, its log, memory, processes bounded; sees what else uses the
device.
"""

import ctypes
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from ratchet.referee.limits import (
    LEAST_DISK_BYTES,
    LOG_BYTES,
    MEMORY_SHARE,
    MESSAGE_BYTES,
    MOST_PROCESSES,
    POLL_SECONDS,
    TAIL_LINES,
)
from ratchet.untrusted_text import clean

LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Ended(Exception):
    """A contestant that came to an end before it submitted: its status and the reason."""

    def __init__(self, status, why):
        super().__init__(why)
        self.status = status


class Cancelled(BaseException):
    """The work of this process is to end now; a thread's KeyboardInterrupt."""


cancelled = threading.Event()


def pause(seconds):
    """Sleep, unless the work is to end: raises Cancelled then."""
    if cancelled.wait(seconds):
        raise Cancelled


def tail(log):
    """Last lines of a log, without the names of the machine and its folders: ledgers are published."""
    text = log.read_text(encoding="utf-8", errors="replace").strip() if log.exists() else ""
    names = {log.parent: ".", sys.prefix: "python", sys.base_prefix: "python", Path.home(): "~"}
    for folder, name in names.items():
        text = text.replace(f"{folder}/", f"{name}/")
    return [line[:300] for line in text.splitlines()[-TAIL_LINES:]]


class Watched:
    """An untrusted program in a session of its own; its log is capped, its memory polled, all of it
    killed.

    argv, environment, folder: as for subprocess. log: file for what it prints. mark: value of
    RATCHET_RUN in its environment, by which processes that left its tree are found. passed: a
    socket of it, closed here. given: an open file that is its stdin.
    """

    def __init__(self, argv, environment, folder, log, mark, passed=None, given=subprocess.DEVNULL):
        self.log, self.mark, self.printed, self.peak_bytes = open(log, "wb"), mark, 0, 0
        self.folder, self.checked = folder, 0.0
        self.limit = MEMORY_SHARE * psutil.virtual_memory().available
        adopt_orphans()
        self.popen = subprocess.Popen(
            argv,
            env=environment,
            cwd=folder,
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[passed.fileno()] if passed else [],
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        if passed:
            passed.close()
        os.set_blocking(self.popen.stdout.fileno(), False)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        self.log.close()
        self.popen.stdout.close()

    def tree(self):
        """Its processes: the first and its descendants."""
        with suppress(psutil.Error):
            first = psutil.Process(self.popen.pid)
            return [first, *first.children(recursive=True)]
        return []

    def drain(self):
        """Copy what it has printed into the log; raises Ended when that is too much."""
        while data := os.read(self.popen.stdout.fileno(), 2**16) if self._readable() else b"":
            self.printed += len(data)
            self.log.write(clean(data).encode())
            if self.printed > LOG_BYTES:
                raise Ended("output", f"it printed more than {LOG_BYTES >> 20} MB")
        self.log.flush()

    def _readable(self):
        with selectors.DefaultSelector() as selector:
            selector.register(self.popen.stdout, selectors.EVENT_READ)
            return bool(selector.select(0))

    def check(self):
        """Raises Ended when it takes too much memory, disk or too many processes."""
        processes, total = self.tree(), 0
        for process in processes:
            with suppress(psutil.Error):
                total += process.memory_info().rss
        if total > self.limit:  # pages that forks share are in it many times
            total = sum(map(own_bytes, processes))
        self.peak_bytes = max(self.peak_bytes, total)
        if total > self.limit:
            raise Ended(
                "memory",
                f"it took {total / 2**30:.1f} GB of memory, {self.limit / 2**30:.1f} were free",
            )
        if len(processes) > MOST_PROCESSES:
            raise Ended("processes", f"it started more than {MOST_PROCESSES} processes")
        if shutil.disk_usage(self.folder).free < LEAST_DISK_BYTES:
            raise Ended("disk", "it filled the disk")

    def tick(self):
        pause(0)
        self.drain()
        if time.monotonic() > self.checked + 4 * POLL_SECONDS:
            self.checked = time.monotonic()
            self.check()

    def wait(self, seconds):
        """Its exit code; raises Ended("timeout") after that many seconds."""
        stop = time.monotonic() + seconds
        while self.popen.poll() is None:
            if time.monotonic() > stop:
                raise Ended("timeout", f"it did not end within {seconds:.0f} seconds")
            self.tick()
            time.sleep(POLL_SECONDS)
        self.drain()
        return self.popen.returncode

    def message(self, channel, seconds, slow, look=lambda: None):
        """(its next message, when it came); raises Ended when it ends first, or, saying `slow`, too
        late.

        look() is called all the while.
        """
        stop, data = time.monotonic() + seconds, b""
        with selectors.DefaultSelector() as selector:
            selector.register(channel, selectors.EVENT_READ)
            while not data.endswith(b"\n"):
                if time.monotonic() > stop:
                    raise Ended("timeout", slow)
                if selector.select(POLL_SECONDS):
                    arrived, now = channel.recv(MESSAGE_BYTES), time.monotonic()
                    data += arrived
                    if len(data) > MESSAGE_BYTES:
                        raise Ended("crash", "it sent the referee too long a message")
                    if not arrived:
                        raise self._crash()
                self.tick()
                look()
                if self.popen.poll() is not None and not selector.select(0):
                    raise self._crash()
        try:
            return dict(json.loads(data.splitlines()[-1])), now
        except (ValueError, TypeError, RecursionError):
            raise Ended("crash", "it sent the referee what is no message") from None

    def _crash(self):
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(5)
        self.drain()
        code = self.popen.poll()
        self.log.flush()
        text = Path(self.log.name).read_text(encoding="utf-8", errors="replace")
        words = [line for line in text.splitlines() if line.strip()]
        how = f"killed by {signal_name(-code)}" if code and code < 0 else f"exit code {code}"
        return Ended(
            "crash",
            (words[-1].removeprefix("ratchet: ")[:300] if words else "no output") + f" ({how})",
        )

    def kill(self):
        """Kill all of it: the session, the tree, and processes that carry its mark."""
        for _ in range(100):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.popen.pid, signal.SIGKILL)
            left = [*self.tree(), *marked(self.mark)]
            for process in left:
                with suppress(psutil.Error):
                    process.kill()
            self.popen.poll()
            reap(left, self.popen.pid)
            if not any(map(alive, left)):
                break
            time.sleep(0.01)
        self.popen.wait()


def signal_name(number):
    with suppress(ValueError):  # real-time signals have no name
        return signal.Signals(number).name
    return f"signal {number}"


def own_bytes(process):
    """Memory of a process, shared pages by their share: slow to find out."""
    with suppress(psutil.Error, AttributeError):
        return process.memory_full_info().pss
    return 0


def alive(process):
    with suppress(psutil.Error):
        return process.is_running() and process.status() != "zombie"
    return False


def adopt_orphans():
    """Processes that a contestant leaves behind become children of this one (Linux), where they are
    found.
    """
    if LIBC:
        LIBC.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def die_with_parent():
    """Called in a new process: a referee that is killed takes it along."""
    if LIBC:
        LIBC.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


def reap(processes, first):
    for process in processes:
        if process.pid == first:
            continue
        with suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)


def end_marked(*marks):
    """Kill what a killed referee has left; returns when it has ended."""
    for _ in range(500):
        left = [process for mark in marks for process in marked(mark) if alive(process)]
        if not left:
            return
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        time.sleep(0.01)


def marked(mark):
    """Processes whose environment says RATCHET_RUN=mark."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get("RATCHET_RUN") == mark and process.pid != os.getpid():
                found.append(process)
    return found
