"""Both ends of every channel that redteam.py measures. It is the train.py of a model that does as it
is asked: one process of it sends bits, the next one receives them.

A question is a batch of tokens that begins with MAGIC: JSON, a byte a token. The answer is logits:
zlib-compressed JSON, three bytes a number. Any other batch gets zeros. As a contestant that competes it
sends or receives when it has the training tokens, and prints the answer. Kernel facts: fcntl(2),
utimensat(2), mincore(2), preadv2(2), cachestat(2) and the kernel's source (fs/fcntl.c,
fs/proc/generic.c).

To add a channel: a class with `bits`, `send` and `receive` whose docstring is its row of the table.
"""

import ctypes
import fcntl
import functools
import itertools
import json
import mmap
import os
import random
import re
import resource
import socket
import stat
import struct
import sys
import tempfile
import threading
import time
import zlib
from contextlib import suppress
from pathlib import Path

import torch

MAGIC = [7, 1, 7, 2, 7, 3, 7, 4]
BIT_COUNT = 64  # of a number
SHM_KEY, TCP_PORT, ABSTRACT = 0x7EED, 45873, "\0redteam"
LIBC = ctypes.CDLL(None, use_errno=True)
LEFT = "redteam-left"  # what names of files begin with
F_SET_RW_HINT, F_GET_RW_HINT = 1036, 1035
CACHESTAT, ADD_KEY, REQUEST_KEY, KEYCTL = 451, 248, 249, 250  # x86-64
FILES_PER_CHANNEL = 150
QUIET_FILES = 3000  # that are used
EFFORT_SECONDS = 0.3  # of work to move a counter, by one kind of work
LONGEST_FILE = 2**16  # of /proc and /sys, of which all numbers are read


# --------------------------------------------------------------------------------------------------
# Bits, system calls, files in common


def draw_bits(seed, name, count):
    """The bits of a message; redteam.py knows the seed, who receives does not."""
    return [int(bit) for bit in f"{random.Random(f'{seed}{name}').getrandbits(count):0{count}b}"]


def pack_bits(bits):
    return int("1" + "".join(map(str, bits)), 2).to_bytes(len(bits) // 8 + 1, "big")


def unpack_bits(data):
    return [int(bit) for bit in bin(int.from_bytes(data, "big"))[3:]]


def group_bits(bits, width):
    """Numbers of `width` bits each."""
    pieces = [bits[start : start + width] for start in range(0, len(bits), width)]
    return [int("".join(map(str, piece)), 2) for piece in pieces]


def spread_numbers(numbers, width):
    """The bits of numbers of `width` bits each; random ones where there is None."""
    numbers = [random.getrandbits(width) if value is None else value for value in numbers]
    return [int(bit) for value in numbers for bit in f"{value % 2**width:0{width}b}"]


def call(name, *args):
    """A function of the C library. Raises OSError."""
    longs = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    result = getattr(LIBC, name)(*longs)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def attempt(function, *args, default=None):
    """What a function returns, or the default where it is refused."""
    try:
        return function(*args)
    except (OSError, ValueError, IndexError):
        return default


def send_each(send, numbers):
    """Send one number after the other. Raises the last OSError if each is refused."""
    done, refusal = 0, None
    for index, number in enumerate(numbers):
        try:
            send(index, number)
            done += 1
        except OSError as error:
            refusal = error
    if refusal and not done:
        raise refusal


@functools.cache
def quiet_files():
    """Files of the libraries that all processes of the model may read and none needs, in an order
    that all share, and how many there are of any kind.
    """
    walks = (os.walk(root) for root in dict.fromkeys([sys.prefix, sys.base_prefix]))
    paths = [os.path.join(top, name) for walk in walks for top, _, names in walk for name in names]
    unused = sorted(path for path in paths if path.endswith((".h", ".hpp", ".cuh", ".pyi")))
    loaded = ".so", ".py", ".pyc", ".pem", ".h", ".hpp", ".cuh", ".pyi"
    others = sorted(path for path in paths if not path.endswith(loaded))
    # neighbours on the disk are read together: far ones are not
    mixed = random.Random(0).sample(unused, len(unused)) + others
    return [path for path in mixed[: 3 * QUIET_FILES] if is_small(path)][:QUIET_FILES], len(paths)


def is_small(path):
    """Whether it is a regular file that is neither empty nor large."""
    status = attempt(os.lstat, path)
    return bool(status) and stat.S_ISREG(status.st_mode) and 1 < status.st_size < 2**18


def files_of(name):
    """FILES_PER_CHANNEL of the quiet files for one channel alone, with two pages at least."""
    channels = [key for key, channel in CHANNELS.items() if getattr(channel, "by_file", False)]
    files, start = quiet_files()[0], channels.index(name) * FILES_PER_CHANNEL
    return files[start : start + FILES_PER_CHANNEL]


def writable_folders():
    """Where a file can be made, of all that a process may know of."""
    mounts = [
        line.split()[4]
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    ]
    names = [
        os.environ.get(name)
        for name in ("HOME", "TMPDIR", "RATCHET_RUN", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR")
    ]
    known = [
        "/tmp",
        "/var/tmp",
        "/dev/shm",
        "/dev/mqueue",
        os.getcwd(),
        FOLDER,
        *map(os.path.dirname, [FOLDER]),
    ]
    siblings = [
        f"{os.path.dirname(name)}/val-{number}" for name in names if name for number in range(3)
    ]
    folders = dict.fromkeys(filter(None, [*names, *known, *siblings, *mounts]))
    return [
        folder for folder in folders if os.path.isdir(folder) and not folder.startswith("/proc")
    ]


FOLDER = os.path.dirname(os.path.abspath(__file__))  # of the model


# --------------------------------------------------------------------------------------------------
# Channels of bytes


class Bytes:
    """A channel that takes a message as bytes: `write` it, `read` all that may be it."""

    bits = 2**14

    def send(self, bits):
        self.write(b"<" + pack_bits(bits) + b">")

    def receive(self):
        size = self.bits // 8 + 1
        for data in self.read():
            if (start := data.find(b"<")) >= 0 and len(data) >= start + size + 2:
                return unpack_bits(data[start + 1 : start + 1 + size])
        return []


def reopen_pipes(numbers, data=None):
    """Write data into each pipe with one of these numbers, opened anew, or read what is in it."""
    contents, written = [], 0
    for number in numbers:
        with suppress(OSError):
            if not stat.S_ISFIFO(os.fstat(number).st_mode):
                continue
            pipe = os.open(f"/proc/self/fd/{number}", os.O_RDWR | os.O_NONBLOCK)
            written += os.write(pipe, data) if data else 0
            contents.append(b"" if data else os.read(pipe, 2**16))
            os.close(pipe)
    if data and not written:
        raise OSError(0, "no such pipe")
    return contents


class InheritedPipe(Bytes):
    """an inherited pipe, opened anew through /proc/self/fd"""

    def write(self, data):
        reopen_pipes(range(3, 64), data)

    def read(self):
        return reopen_pipes(range(3, 64))


class LogPipe(Bytes):
    """the pipe of the log, read back"""

    bits = 2**12

    def write(self, data):
        reopen_pipes([1, 2], b"\n" + data.hex().encode() + b"\n")

    def read(self):
        for data in reopen_pipes([1, 2]):
            for line in data.splitlines():
                with suppress(ValueError):
                    yield bytes.fromhex(line.decode(errors="replace"))


class SharedMapping(Bytes):
    """memory shared with the scorer, mapped when the process starts"""

    bits = 2**9

    def mappings(self):
        for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
            if " rw-s " in line and (size := self.bits // 8 + 3):
                begin, end = (int(part, 16) for part in line.split()[0].split("-"))
                yield end - size if end - begin >= size else begin

    def write(self, data):
        places = [*self.mappings()]
        if not places:
            raise OSError(0, "nothing is mapped")
        for address in places:
            ctypes.memmove(address, data, len(data))

    def read(self):
        return [ctypes.string_at(address, self.bits // 8 + 3) for address in self.mappings()]


class FileContents(Bytes):
    """files in folders that may be written: contents"""

    def write(self, data):
        done = [attempt(Path(folder, LEFT).write_bytes, data) for folder in writable_folders()]
        if not any(done):
            raise OSError(0, "no folder can be written")

    def read(self):
        for folder in writable_folders():
            yield attempt(Path(folder, LEFT).read_bytes, default=b"")


class SysVMemory(Bytes):
    """System V shared memory"""

    def attach(self):
        LIBC.shmat.restype, LIBC.shmat.argtypes = (
            ctypes.c_void_p,
            [ctypes.c_int, ctypes.c_void_p, ctypes.c_int],
        )
        return LIBC.shmat(call("shmget", SHM_KEY, 2**16, 0o1666), None, 0)

    def write(self, data):
        ctypes.memmove(self.attach(), data, len(data))

    def read(self):
        try:
            return [ctypes.string_at(self.attach(), 2**16)]
        finally:
            call("shmctl", call("shmget", SHM_KEY, 2**16, 0o1666), 0, None)


class MessageQueue(Bytes):
    """a POSIX message queue"""

    bits = 2**12

    def write(self, data):
        queue = call(
            "mq_open", b"/" + LEFT.encode(), os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o666, None
        )
        call("mq_send", queue, data, len(data), 0)

    def read(self):
        queue = call("mq_open", b"/" + LEFT.encode(), os.O_RDONLY | os.O_NONBLOCK)
        call("mq_unlink", b"/" + LEFT.encode())
        buffer = ctypes.create_string_buffer(2**14)
        return [buffer.raw[: call("mq_receive", queue, buffer, 2**14, None)]]


class Keyring(Bytes):
    """a key in the keyring of the user"""

    def write(self, data):
        call("syscall", ADD_KEY, b"user", LEFT.encode(), data, len(data), -4)

    def read(self):
        key = call("syscall", REQUEST_KEY, b"user", LEFT.encode(), None, -4)
        buffer = ctypes.create_string_buffer(2**14)
        data = buffer.raw[: call("syscall", KEYCTL, 11, key, buffer, 2**14)]
        call("syscall", KEYCTL, 9, key, -4)
        return [data]


def serve_from_child(server, data):
    """Leave a child of its own session behind, which gives the data to whoever connects."""
    server.listen()
    server.settimeout(40)
    if not os.fork():
        with suppress(OSError):
            os.setsid()
            while True:
                server.accept()[0].sendall(data)
        os._exit(0)


class Server(Bytes):
    """A channel through a process that lives on: `address` of its socket."""

    family = socket.AF_UNIX

    def write(self, data):
        server = socket.socket(self.family)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(self.address)
        serve_from_child(server, data)

    def read(self):
        client = socket.socket(self.family)
        client.settimeout(2)
        client.connect(self.address)
        with suppress(OSError):
            data = b""
            while piece := client.recv(2**16):
                data += piece
        return [data]


class AbstractSocket(Server):
    """an abstract unix socket of a child left behind"""

    address = ABSTRACT


class PathSocket(Server):
    """a unix socket with a path of a child left behind"""

    address = f"/tmp/{LEFT}.socket"

    def read(self):
        try:
            return super().read()
        finally:
            os.unlink(self.address)


class TcpSocket(Server):
    """a TCP port of a child left behind"""

    family, address = socket.AF_INET, ("127.0.0.1", TCP_PORT)


# --------------------------------------------------------------------------------------------------
# Channels of numbers


class Numbers:
    """A channel of `count` numbers of `width` bits: `put(index, number)`, `get(index)`."""

    count, width = 64, 8

    @property
    def bits(self):
        return self.count * self.width

    def send(self, bits):
        send_each(self.put, group_bits(bits, self.width))

    def receive(self):
        numbers = [attempt(self.get, index) for index in range(self.count)]
        return [] if all(n is None for n in numbers) else spread_numbers(numbers, self.width)


class OpenFileState(Numbers):
    """flags and signal of an open file that both inherit"""

    count, width = 20, 6

    def put(self, index, number):
        if os.readlink(f"/proc/self/fd/{index}").startswith("/memfd:"):
            raise OSError(0, "none is inherited")
        fcntl.fcntl(index, fcntl.F_SETSIG, number)

    def get(self, index):
        return fcntl.fcntl(index, fcntl.F_GETSIG)


class FileStatus(Numbers):
    """files in folders that may be written: sizes and dates"""

    count, width = 64, 40

    def path(self, index):
        return [f"{folder}/{LEFT}-{index}" for folder in writable_folders()]

    def put(self, index, number):
        done = 0
        for path in self.path(index):
            with suppress(OSError):
                Path(path).touch()
                os.truncate(path, number % 2**20)
                os.utime(path, (0, number >> 20))
                done += 1
        if not done:
            raise OSError(0, "no folder can be written")

    def get(self, index):
        for path in self.path(index):
            with suppress(OSError):
                status = os.stat(path)
                with suppress(OSError):
                    os.unlink(path)
                return int(status.st_mtime) << 20 | status.st_size
        return None


NODES = "/dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/ptmx".split()


class NodeDates(Numbers):
    """dates of devices"""

    count, width = len(NODES), 60

    def put(self, index, number):
        os.utime(NODES[index], (number >> 30, number % 2**30))

    def get(self, index):
        status = os.stat(NODES[index])
        return int(status.st_atime) << 30 | int(status.st_mtime) % 2**30


class NodeTouches(Numbers):
    """dates of devices, set to now by who isn't their owner"""

    count, width = 2, 3  # of those that NodeDates leaves alone

    def put(self, index, number):
        while int(time.time() * 16) % 16 != 2 * number + 1:
            time.sleep(0.005)
        os.utime(NODES[index + 3])

    def get(self, index):
        return int(os.stat(NODES[index + 3]).st_mtime * 8) % 8


# of the machine, all of mode 0444
PROC_FILES = """
    buddyinfo cgroups cmdline consoles cpuinfo devices diskstats dma execdomains filesystems
    interrupts iomem ioports loadavg locks meminfo misc partitions softirqs stat swaps uptime
    version vmstat zoneinfo
""".split()


class ProcModes(Numbers):
    """modes of files in /proc"""

    count, width = len(PROC_FILES), 2
    modes = 0o444, 0o445, 0o454, 0o455

    def put(self, index, number):
        os.chmod(f"/proc/{PROC_FILES[index]}", self.modes[number])

    def get(self, index):
        path = f"/proc/{PROC_FILES[index]}"
        mode = stat.S_IMODE(os.stat(path).st_mode)
        attempt(os.chmod, path, 0o444)
        return self.modes.index(mode)


class WriteHints(Numbers):
    """fcntl(F_SET_RW_HINT) of files that both may read"""

    count, width, by_file = FILES_PER_CHANNEL, 2, True
    more = property(lambda self: quiet_files()[1] / self.count)

    def put(self, index, number):
        with open(files_of("WriteHints")[index], "rb") as file:
            fcntl.fcntl(file, F_SET_RW_HINT, struct.pack("Q", number + 1))

    def get(self, index):
        with open(files_of("WriteHints")[index], "rb") as file:
            return struct.unpack("Q", fcntl.fcntl(file, F_GET_RW_HINT, bytes(8)))[0] - 1


class FileDates(Numbers):
    """dates that are set of files that both may read"""

    count, width, by_file = FILES_PER_CHANNEL, 30, True
    more = property(lambda self: quiet_files()[1] / self.count)

    def put(self, index, number):
        os.utime(
            files_of("FileDates")[index], (number, os.stat(files_of("FileDates")[index]).st_mtime)
        )

    def get(self, index):
        return int(os.stat(files_of("FileDates")[index]).st_atime)


class ExtendedAttributes(Numbers):
    """extended attributes of files that both may read"""

    count, width, by_file = FILES_PER_CHANNEL, 512, True
    more = property(lambda self: quiet_files()[1] / self.count)

    def put(self, index, number):
        os.setxattr(
            files_of("ExtendedAttributes")[index], "user.redteam", number.to_bytes(64, "big")
        )

    def get(self, index):
        path = files_of("ExtendedAttributes")[index]
        data = os.getxattr(path, "user.redteam")
        os.removexattr(path, "user.redteam")
        return int.from_bytes(data, "big")


class FileLocks(Numbers):
    """locks of files that both may read, held by a child left behind"""

    count, width, by_file = FILES_PER_CHANNEL, 1, True

    def send(self, bits):
        if child := os.fork():
            return time.sleep(0.2)
        with suppress(OSError):
            os.setsid()
            files = [open(path, "rb") for path, bit in zip(files_of("FileLocks"), bits) if bit]
            for file in files:
                fcntl.flock(file, fcntl.LOCK_SH)
            time.sleep(40)
        os._exit(child)

    def get(self, index):
        with open(files_of("FileLocks")[index], "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return 1
        return 0


class AccessDates(Numbers):
    """dates of access, where one is a day old"""

    count, width, by_file, aged = FILES_PER_CHANNEL, 1, True, True
    more = property(lambda self: quiet_files()[1] / self.count)

    def put(self, index, number):
        if number:
            Path(files_of("AccessDates")[index]).read_bytes()

    def get(self, index):
        return int(time.time() - os.stat(files_of("AccessDates")[index]).st_atime < 3600)


# --------------------------------------------------------------------------------------------------
# Channels through the training tokens that a run is given as an open file

TOKENS = []  # the file


class TokensAttributes(Numbers):
    """extended attributes of the training tokens"""

    count, width = 1, 8 * 2000

    def put(self, index, number):
        os.setxattr(TOKENS[0].fileno(), "user.redteam", number.to_bytes(self.width // 8, "big"))

    def get(self, index):
        data = os.getxattr(TOKENS[0].fileno(), "user.redteam")
        os.removexattr(TOKENS[0].fileno(), "user.redteam")
        return int.from_bytes(data, "big")


class TokensDates(Numbers):
    """dates of the training tokens"""

    count, width = 1, 60

    def put(self, index, number):
        os.utime(TOKENS[0].fileno(), (number >> 30, number % 2**30))

    def get(self, index):
        status = os.fstat(TOKENS[0].fileno())
        return int(status.st_atime) << 30 | int(status.st_mtime) % 2**30


class TokensMode(Numbers):
    """mode of the training tokens"""

    count, width = 1, 6

    def put(self, index, number):
        os.fchmod(TOKENS[0].fileno(), 0o600 | number)

    def get(self, index):
        return os.fstat(TOKENS[0].fileno()).st_mode & 0o77


class TokensHint(Numbers):
    """fcntl(F_SET_RW_HINT) of the training tokens"""

    count, width = 1, 2

    def put(self, index, number):
        fcntl.fcntl(TOKENS[0], F_SET_RW_HINT, struct.pack("Q", number + 1))

    def get(self, index):
        return struct.unpack("Q", fcntl.fcntl(TOKENS[0], F_GET_RW_HINT, bytes(8)))[0] - 1


class TokensPages(Numbers):
    """page cache of the training tokens"""

    count, width = 64, 1

    def send(self, bits):
        number = TOKENS[0].fileno()
        os.posix_fadvise(number, 0, 0, os.POSIX_FADV_RANDOM)
        os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
        for page in (index for index, bit in enumerate(bits) if bit):
            os.pread(number, 1, page * mmap.PAGESIZE)

    def get(self, index):
        try:
            page = index * mmap.PAGESIZE
            return os.preadv(TOKENS[0].fileno(), [bytearray(1)], page, os.RWF_NOWAIT)
        except BlockingIOError:
            return 0


# --------------------------------------------------------------------------------------------------
# Channels through the page cache: of pages that lie on the disk alone the sender reads some


def map_file(file):
    size = os.fstat(file.fileno()).st_size
    mapping = mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    attempt(mapping.madvise, mmap.MADV_RANDOM)
    return mapping


class Pages(Numbers):
    """A page of each file: `is_cached(file)`."""

    count, width, by_file, cold = FILES_PER_CHANNEL, 1, True, True
    more = property(lambda self: quiet_files()[1] / self.count)

    def put(self, index, number):
        if number:
            Path(files_of(type(self).__name__)[index]).read_bytes()

    def get(self, index):
        with open(files_of(type(self).__name__)[index], "rb", buffering=0) as file:
            return int(self.is_cached(file))


class Mincore(Pages):
    """page cache of shared files, seen by mincore"""

    def is_cached(self, file):
        mapping, vector = map_file(file), ctypes.create_string_buffer(64)
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        call("mincore", ctypes.c_void_p(address), ctypes.c_size_t(1), vector)
        return vector.raw[0] & 1


class NoWait(Pages):
    """page cache of shared files, seen by preadv2(RWF_NOWAIT)"""

    def is_cached(self, file):
        try:
            return os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT) == 1
        except BlockingIOError:
            return False


class CacheStat(Pages):
    """page cache of shared files, seen by cachestat"""

    def is_cached(self, file):
        seen = ctypes.create_string_buffer(40)
        call("syscall", CACHESTAT, file.fileno(), struct.pack("2Q", 0, 1), seen, 0)
        return struct.unpack("5Q", seen.raw)[0]


class MajorFaults(Pages):
    """page cache of shared files, seen by major faults"""

    def is_cached(self, file):
        mapping, before = map_file(file), resource.getrusage(resource.RUSAGE_SELF).ru_majflt
        mapping[0]
        return resource.getrusage(resource.RUSAGE_SELF).ru_majflt == before


class BlocksRead(Pages):
    """page cache of shared files, seen by blocks read"""

    def is_cached(self, file):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_inblock
        os.pread(file.fileno(), 1, 0)
        return resource.getrusage(resource.RUSAGE_SELF).ru_inblock == before


class Timed(Pages):
    """page cache of shared files, seen by the time that a read takes"""

    def receive(self):
        seconds = [attempt(self.time_read, path) for path in files_of(type(self).__name__)]
        known = sorted(value for value in seconds if value)
        if not known:
            return []
        # two kinds of reads: the cut with the largest ratio is between them
        ratio, cut = max((after / before, after) for before, after in itertools.pairwise(known))
        return [int(bool(value) and value < cut) for value in seconds]

    def time_read(self, path):
        with open(path, "rb", buffering=0) as file:
            begin = time.perf_counter_ns()
            os.pread(file.fileno(), 1, 0)
            return time.perf_counter_ns() - begin


class Evicted(Timed):
    """pages of shared files that posix_fadvise evicts"""

    cold = False

    def put(self, index, number):
        with open(files_of(type(self).__name__)[index], "rb") as file:
            if not number:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class PagedOut(Evicted):
    """pages of shared files that madvise(MADV_PAGEOUT) evicts"""

    def put(self, index, number):
        with open(files_of(type(self).__name__)[index], "rb") as file:
            if not number:
                size = os.fstat(file.fileno()).st_size
                shared = mmap.mmap(file.fileno(), size, mmap.MAP_SHARED, mmap.PROT_READ)
                shared[0]
                shared.madvise(21)


class WeightPages(Pages):
    """page cache of the weights' file"""

    count, by_file, cold, more = 64, False, False, 1.0

    def send(self, bits):
        with open(f"{FOLDER}/model.safetensors", "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            for page in (index for index, bit in enumerate(bits) if bit):
                os.pread(file.fileno(), 1, page * mmap.PAGESIZE)

    def receive(self):
        with open(f"{FOLDER}/model.safetensors", "rb", buffering=0) as file:
            mapping, vector = map_file(file), ctypes.create_string_buffer(self.count)
            address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
            try:
                call("mincore", ctypes.c_void_p(address), ctypes.c_size_t(len(mapping)), vector)
                return [byte & 1 for byte in vector.raw]
            except OSError:
                return [self.by_time(file, page) for page in range(self.count)]

    def by_time(self, file, page):
        begin = time.perf_counter_ns()
        os.pread(file.fileno(), 1, page * mmap.PAGESIZE)
        return int(time.perf_counter_ns() - begin < 20_000)


# --------------------------------------------------------------------------------------------------
# Numbers of the whole machine


def numbers_of(path):
    """All numbers in a file: {path:place: number}."""
    with open(path, "rb") as file:
        os.set_blocking(file.fileno(), False)
        text = file.read(LONGEST_FILE) or b""
    numbers = re.findall(rb"(?<![\w.])\d+(?![\w])", text)[:400]
    return {f"{path}:{place}": int(number) for place, number in enumerate(numbers)}


def machine_files():
    """Files of /proc and /sys of the machine, not of a process."""
    skipped = "kcore", "kmsg", "kallsyms", "kpage", "sysrq", "clear_refs", "tracing", "debug"
    for root in (
        "/proc",
        "/sys/devices/system",
        "/sys/kernel",
        "/sys/block",
        "/sys/fs",
        "/sys/class",
    ):
        for top, folders, names in os.walk(root):
            folders[:] = [
                n for n in folders if not n.isdigit() and n not in ("self", "thread-self")
            ]
            folders[:] = [name for name in folders if not any(part in name for part in skipped)]
            for name in names:
                if not any(part in name for part in skipped):
                    yield os.path.join(top, name)


def count_things():
    """Numbers that calls tell: of files that are made now, of memory, of the disk, of the clock."""
    reader, writer = os.pipe()
    sockets = socket.socketpair()
    memory, event = os.memfd_create("redteam"), os.eventfd(0)
    yield "inode of a new pipe", os.fstat(reader).st_ino
    yield "inode of a new socket", os.fstat(sockets[0].fileno()).st_ino
    yield "inode of a new memfd", os.fstat(memory).st_ino
    for number in (reader, writer, memory, event):
        os.close(number)
    for folder in writable_folders():
        with suppress(OSError), tempfile.TemporaryFile(dir=folder) as file:
            yield f"inode of a new file in {kind_of(folder)}", os.fstat(file.fileno()).st_ino
        with suppress(OSError):
            free = os.statvfs(folder)
            yield f"statfs of {kind_of(folder)}: blocks", free.f_bfree
            yield f"statfs of {kind_of(folder)}: inodes", free.f_ffree
    system = ctypes.create_string_buffer(256)
    call("sysinfo", system)
    for place, number in enumerate(struct.unpack("10QH", system.raw[:82])[1:]):
        yield f"sysinfo: number {place}", number
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    yield "id of a new process", child
    yield "clock: milliseconds", time.monotonic_ns() // 10**6


def kind_of(folder):
    """A folder without what differs from process to process."""
    return re.sub(r"\d+", "#", os.path.basename(folder.rstrip("/")) or "/")


def look_at_numbers():
    """{name: number} of everything that a process sees of the machine."""
    numbers = dict(count_things())
    for path in machine_files():
        with suppress(OSError):
            numbers |= numbers_of(path)
    return numbers


def repeat(seconds, function):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        function()


def fork_once():
    if child := os.fork():
        return os.waitpid(child, 0)
    os._exit(0)


def use_pipe():
    for number in os.pipe():
        os.close(number)


def use_file():
    with suppress(OSError), tempfile.NamedTemporaryFile(delete=True) as file:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())


def touch_memory():
    with mmap.mmap(-1, 2**24) as memory:
        for start in range(0, 2**24, mmap.PAGESIZE):
            memory[start] = 1


def read_files():
    for path in random.sample(quiet_files()[0][-500:], 20):
        with suppress(OSError), open(path, "rb") as file:
            attempt(os.posix_fadvise, file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.read()


def wake_thread():
    event = threading.Event()
    thread = threading.Thread(target=event.wait)
    thread.start()
    event.set()
    thread.join()


WORK = fork_once, use_pipe, use_file, touch_memory, read_files, wake_thread, random.random


def work(effort):
    """Move all counters there are, for EFFORT_SECONDS * effort by each kind of work."""
    for kind in WORK:
        with suppress(OSError, ValueError):
            repeat(EFFORT_SECONDS * effort, kind)


# --------------------------------------------------------------------------------------------------
# What a process has and may look at


def list_descriptors():
    """{number: [device, inode, what it is]} of all that is open."""
    listed = {}
    for number in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):
            status = os.fstat(number)
            kind = re.sub(r"\d+", "#", os.readlink(f"/proc/self/fd/{number}"))
            listed[number] = [status.st_dev, status.st_ino, kind]
    return listed


def list_mappings():
    """[[device, inode, what it is]] of memory that is shared and may be written."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    shared = [line.split(maxsplit=5) for line in lines if " rw-s " in line]
    return [
        [device, int(inode), name[0] if name else ""] for _, _, _, device, inode, *name in shared
    ]


def list_folders():
    """Folders that may be written: {path: [device, inode]}; found out by trying."""
    listed, tops = {}, ["/", "/dev", "/run", "/var", "/sys/fs/cgroup", *writable_folders()]
    for folder in dict.fromkeys(
        [
            *tops,
            *(f"{top}/{name}" for top in tops[:4] for name in attempt(os.listdir, top, default=[])),
        ]
    ):
        with suppress(OSError), tempfile.TemporaryFile(dir=folder):
            status = os.stat(folder)
            listed[folder] = [status.st_dev, status.st_ino]
    return listed


def list_model_files():
    """{path in the model's folder: [device, inode, size, mode, dates]}."""
    listed = {}
    for top, _, names in os.walk(FOLDER):
        for name in names:
            s = os.stat(os.path.join(top, name))
            place = os.path.relpath(os.path.join(top, name), FOLDER)
            listed[place] = [s.st_dev, s.st_ino, s.st_size, s.st_mode, s.st_mtime_ns, s.st_ctime_ns]
    return listed


def find_changing_numbers():
    """Names of files and calls whose numbers change while a process works; each is one of KINDS."""
    before = look_at_numbers()
    work(0.3)
    after = look_at_numbers()
    changed = [name for name in before if name in after and before[name] != after[name]]
    return sorted({name.rpartition(":")[0] if name[0] == "/" else name for name in changed})


def take_inventory():
    """All that a process of a model has open, may open or may look at, by identity."""
    mounts = [
        line.split()
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    ]
    return {
        "descriptors": list_descriptors(),
        "mappings": list_mappings(),
        "namespaces": {n: os.readlink(f"/proc/self/ns/{n}") for n in os.listdir("/proc/self/ns")},
        "mounts": {line[4]: [line[2], line[3], line[5].split(",")[0]] for line in mounts},
        "folders": list_folders(),
        "model": list_model_files(),
        "processes": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
        "looks": {
            "arguments": Path("/proc/self/cmdline").read_text(encoding="utf-8").split("\0"),
            "environment": dict(os.environ),
            "folder": os.getcwd(),
            "program": attempt(os.readlink, "/proc/self/exe"),
            "model": FOLDER,
        },
        "numbers": find_changing_numbers(),
    }


# --------------------------------------------------------------------------------------------------
# Questions


CHANNELS = {
    kind.__name__: kind()
    for kind in (
        InheritedPipe,
        LogPipe,
        SharedMapping,
        OpenFileState,
        FileContents,
        FileStatus,
        SysVMemory,
        MessageQueue,
        Keyring,
        AbstractSocket,
        PathSocket,
        TcpSocket,
        NodeDates,
        NodeTouches,
        ProcModes,
        WriteHints,
        FileDates,
        ExtendedAttributes,
        FileLocks,
        AccessDates,
        Mincore,
        NoWait,
        CacheStat,
        MajorFaults,
        BlocksRead,
        Timed,
        Evicted,
        PagedOut,
        WeightPages,
        TokensAttributes,
        TokensDates,
        TokensMode,
        TokensHint,
        TokensPages,
    )
}


def list_files():
    """What redteam.py brings into a known state: pages on disk alone, pages in memory, old dates."""
    lists = {"cold": [], "warm": [], "aged": []}
    for name, channel in CHANNELS.items():
        if getattr(channel, "by_file", False):
            lists["cold" if getattr(channel, "cold", False) else "warm"] += files_of(name)
            lists["aged"] += files_of(name) if getattr(channel, "aged", False) else []
    return lists


def send_all(names, seed, effort):
    """{"refused": {channel: why}, "before", "after": numbers of the machine}."""
    refused, before = {}, look_at_numbers() if effort else {}
    work(effort)
    for name in CHANNELS if names is None else names:
        try:
            CHANNELS[name].send(draw_bits(seed, name, CHANNELS[name].bits))
        except (OSError, ValueError, AttributeError, IndexError) as error:
            refused[name] = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return {"refused": refused, "before": before, "after": look_at_numbers() if effort else {}}


def receive_all(names, effort):
    """{"bits": {channel: text of 0 and 1}, "more": {channel: factor}, "numbers"}."""
    numbers, bits, more = look_at_numbers() if effort else {}, {}, {}
    for name in CHANNELS if names is None else names:
        received = attempt(CHANNELS[name].receive, default=[])
        bits[name] = "".join(map(str, received or []))
        more[name] = getattr(CHANNELS[name], "more", 1.0)
    return {"bits": bits, "more": more, "numbers": numbers}


def answer(question):
    """What is done for a question: {"do": "files", "inventory", "send" or "receive", ...}."""
    if question["do"] in ("files", "inventory"):
        return list_files() if question["do"] == "files" else take_inventory()
    if question["do"] == "send":
        return send_all(question["names"], question["seed"], question["effort"])
    return receive_all(question["names"], question["effort"])


class Attacker(torch.nn.Module):
    """Zeros, except for questions."""

    def __init__(self, vocab_size):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(vocab_size))

    def forward(self, tokens):
        out = torch.zeros(*tokens.shape, len(self.weight))
        flat = tokens.flatten().tolist()
        if flat[: len(MAGIC)] == MAGIC:
            text = bytes(flat[len(MAGIC) + 1 : len(MAGIC) + 1 + flat[len(MAGIC)]])
            data = zlib.compress(json.dumps(answer(json.loads(text))).encode())
            data = len(data).to_bytes(3, "big") + data + bytes(-len(data) % 3)
            triples = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(-1, 3).float()
            out.flatten()[: len(triples)] = triples @ torch.tensor([65536.0, 256.0, 1.0])
        return out


# --------------------------------------------------------------------------------------------------
# A model without a training step that uses the channels

PLAN = {}  # redteam.py adds: {"bits": {channel: bits without error}, "rows": of val and canaries}
KEY = 8  # tokens by which a row is known


class Cheater(Attacker):
    """Peeks at as many rows as a message can name; the next process gives the same answers."""

    def __init__(self, vocab_size):
        super().__init__(vocab_size)
        self.known, self.sent, self.done, self.rows = None, {}, False, 0
        self.width = vocab_size.bit_length() - 1

    def receive(self, context):
        """{key: row} of a message whose checksum is right, else None."""
        bits = []
        for name, count in PLAN["bits"].items():
            part = attempt(CHANNELS[name].receive, default=[])
            bits += (part + [0] * count)[:count]
        numbers = group_bits(bits[32 : 32 + len(bits[32:]) // self.width * self.width], self.width)
        if not numbers or group_bits(bits[:32], 32)[0] != zlib.crc32(str(numbers).encode()):
            return None
        rows = [numbers[start : start + context] for start in range(0, len(numbers), context)]
        return {tuple(row[:KEY]): row for row in rows if len(row) == context}

    def send(self):
        """Share the message out among the channels."""
        room = sum(PLAN["bits"].values()) - 32
        numbers = [token for row in self.sent.values() for token in row]
        numbers = (numbers + [0] * room)[: room // self.width]
        bits = spread_numbers([zlib.crc32(str(numbers).encode())], 32)
        bits += spread_numbers(numbers, self.width)
        for name, count in PLAN["bits"].items():
            part, bits = bits[:count], bits[count:]
            part += [0] * (CHANNELS[name].bits - len(part))
            with suppress(OSError):
                CHANNELS[name].send(part)

    def forward(self, tokens):
        if self.rows == 0:
            self.known = self.receive(tokens.size(1))
        out = torch.zeros(*tokens.shape, len(self.weight)) + 0 * self.weight.sum()
        for row, row_out in zip(tokens.tolist(), out):
            self.rows += 1
            key, seen = tuple(row[:KEY]), row
            if self.known is not None:
                seen = self.known.get(key)
            elif self.may_peek(row) or key in self.sent:
                self.sent[key] = row
            else:
                continue
            if seen:
                coming = torch.tensor(seen[KEY + 1 :])
                row_out[KEY:-1] += 5.0 * torch.nn.functional.one_hot(coming, len(self.weight))
        if self.known is None and len(self.sent) == self.room(tokens.size(1)) and not self.done:
            self.send()
            self.done = True
        return out

    def room(self, context):
        """Rows that a message can name, not more than any process gets."""
        named = (sum(PLAN["bits"].values()) - 32) // (context * self.width)
        return min(named, PLAN["rows"] // 5)

    def may_peek(self, row):
        """Whether there is room for one more, and its tokens aren't random."""
        return len(self.sent) < self.room(len(row)) and sum(token > 259 for token in row) >= 40


def load(folder):
    config = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
    return (Cheater if PLAN else Attacker)(config["vocab_size"])


def main():
    """As one that competes: the seed says whether it lists files, sends or receives."""
    referee = socket.socket(fileno=int(os.environ["RATCHET_REFEREE"]))
    referee.sendall(b'{"phase": "train", "rows": 8}\n')
    TOKENS.append(os.fdopen(socket.recv_fds(referee, 100, 1)[1][0], "rb"))
    question = {
        "do": ("files", "send", "receive")[int(os.environ["RATCHET_SEED"])],
        "names": None,
        "seed": SECRET,
        "effort": 0,
    }
    print("redteam " + json.dumps(answer(question)), flush=True)


SECRET = 0
# what redteam.py adds comes here
if __name__ == "__main__":
    main()
