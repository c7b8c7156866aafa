"""A contestant that plays a random mixture of tricks with files, processes, clocks and messages.

It needs nothing but the standard library, so that it starts at once. test_tricks.py adds a line that
says which mixture: play(seed). To add a trick: a function below with @trick.
"""

import ctypes
import fcntl
import json
import os
import random
import resource
import signal
import socket
import struct
import sys
import threading
import time
from contextlib import suppress

TRICKS = {}
LEFT = "27.1828"  # seconds for which what is left behind sleeps: by this it is known
OUT = os.environ.get("RATCHET_RUN", ".")
WRITABLE = OUT, os.environ.get("TMPDIR", "."), os.environ.get("TORCHINDUCTOR_CACHE_DIR", ".")
NAMES = (
    "model.safetensors",
    "config.json",
    "curve.jsonl",
    "run.log",
    "result.json",
    "a\nb",
    "\udcff",
)
MESSAGES = (
    b"{",
    b"[" * 60_000 + b"\n",
    b"0\n",
    b"null\n",
    b"\xff\xfe\n",
    b"\x00" * 10 + b"\n",
    b'{"phase": ["train"]}\n',
    b'{"steps": 1e999, "tokens": -1, "flops_per_token": "x"}\n',
    b'{"phase": "rehearsal"}\n' * 500,
    b"x" * 200_000,
)
channel = tokens = None  # the socket to the referee, what it handed over


def trick(function):
    TRICKS[function.__name__] = function
    return function


def any_path(dice):
    return os.path.join(dice.choice(WRITABLE), dice.choice(NAMES))


def replace(path):
    """Make room for what is to lie here."""
    with suppress(OSError):
        os.unlink(path)
    return path


# --------------------------------------------------------------------------------------------------
# Files


@trick
def writes_junk(dice):
    with open(replace(any_path(dice)), "wb") as file:
        file.write(dice.randbytes(dice.choice([0, 1, 4096])))


@trick
def links_to_val(dice):
    cache = os.environ["RATCHET_CACHE"]
    os.symlink(f"{cache}/{os.environ['RATCHET_ARENA']}/val.rows", replace(any_path(dice)))


@trick
def links_to_itself(dice):
    path = replace(any_path(dice))
    os.symlink(path, path)


@trick
def has_two_names(dice):
    path = any_path(dice)
    os.link(sys.argv[0] if dice.random() < 0.5 else path, path + "2")


@trick
def makes_a_pipe(dice):
    os.mkfifo(replace(any_path(dice)))


@trick
def binds_a_socket(dice):
    os.chdir(dice.choice(WRITABLE))
    socket.socket(socket.AF_UNIX).bind(replace(dice.choice(NAMES)))


@trick
def makes_a_folder_of_a_file(dice):
    os.makedirs(replace(any_path(dice)) + "/inner")


@trick
def goes_deep(dice):
    os.chdir(dice.choice(WRITABLE))
    for _ in range(300):
        os.mkdir("deeper")
        os.chdir("deeper")


@trick
def leaves_holes(dice):
    path = replace(any_path(dice))
    with open(path, "wb"):
        os.truncate(path, dice.choice([2**20, 2**35, 2**36]))


@trick
def locks_its_folders(dice):
    os.chmod(dice.choice(WRITABLE), dice.choice([0, 0o200, 0o500]))


@trick
def moves_its_folders(dice):
    os.rename(dice.choice(WRITABLE), OUT + "-moved")


@trick
def removes_its_source(dice):
    for name in os.listdir(os.path.dirname(sys.argv[0]) or "."):
        os.unlink(name)


@trick
def marks_the_tokens(dice):
    number = tokens if tokens is not None else os.open(sys.argv[0], os.O_RDONLY)
    changes = [
        lambda: os.setxattr(number, "user.trick", b"left"),
        lambda: os.utime(number, (1, 2)),
        lambda: os.fchmod(number, 0),
        lambda: fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB),
        lambda: fcntl.fcntl(number, fcntl.F_SETLEASE, fcntl.F_RDLCK),
        lambda: fcntl.fcntl(number, 1036, struct.pack("Q", 3)),
        lambda: os.truncate(f"/proc/self/fd/{number}", 0),
        lambda: os.write(os.open(f"/proc/self/fd/{number}", os.O_WRONLY), b"x"),
    ]
    for change in changes:
        with suppress(OSError):
            change()


@trick
def touches_what_all_share(dice):
    for path in ("/dev/null", "/dev/zero", "/proc/uptime", sys.executable, os.__file__):
        with suppress(OSError):
            os.utime(path, (1, 2))
        with suppress(OSError):
            os.chmod(path, os.stat(path).st_mode ^ 0o001)


# --------------------------------------------------------------------------------------------------
# Processes


@trick
def leaves_a_child(dice):
    if not os.fork():
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.execve("/bin/sleep", ["sleep", LEFT], {} if dice.random() < 0.5 else os.environ)


@trick
def forks_twice(dice):
    if not os.fork():
        if not os.fork():
            os.setsid()
            os.closerange(0, 100)
            time.sleep(float(LEFT))
        os._exit(0)
    os.wait()


@trick
def forks_many(dice):
    for _ in range(dice.choice([5, 60])):
        if not os.fork():
            time.sleep(float(LEFT))
            os._exit(0)


@trick
def leaves_zombies(dice):
    for _ in range(10):
        if not os.fork():
            os._exit(0)


@trick
def gives_its_channel_to_a_child(dice):
    if os.fork():
        os._exit(0)


@trick
def stops(dice):
    os.kill(dice.choice([os.getpid(), 0]), signal.SIGSTOP)


@trick
def kills_its_parent(dice):
    os.kill(os.getppid(), signal.SIGKILL)


@trick
def kills_its_group(dice):
    os.killpg(0, dice.choice([signal.SIGTERM, signal.SIGHUP]))


@trick
def becomes_another_program(dice):
    os.execv("/bin/sleep", ["sleep", dice.choice(["0", LEFT])])


@trick
def dies(dice):
    os.kill(os.getpid(), dice.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT]))


@trick
def exits(dice):
    os._exit(dice.choice([0, 1, 125, 127, 255]))


@trick
def asks_for_little(dice):
    resource.setrlimit(dice.choice([resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE]), (20, 20))


@trick
def starts_threads(dice):
    for _ in range(20):
        threading.Thread(target=time.sleep, args=(float(LEFT),), daemon=dice.random() < 0.5).start()


@trick
def shares_memory(dice):
    libc = ctypes.CDLL(None)
    libc.shmget(0x7EED, 2**16, 0o1666)
    with suppress(OSError), open("/dev/shm/redteam-left", "wb") as file:
        file.write(b"left")


# --------------------------------------------------------------------------------------------------
# Clocks and messages


@trick
def sleeps(dice):
    time.sleep(dice.choice([0.1, 1.5, float(LEFT)]))


@trick
def spins(dice):
    end = time.monotonic() + dice.choice([0.1, 1.5])
    while time.monotonic() < end:
        pass


@trick
def says_nonsense(dice):
    channel.sendall(dice.choice(MESSAGES))


@trick
def says_it_byte_by_byte(dice):
    for byte in b'{"phase": "train"}':
        channel.send(bytes([byte]))
        time.sleep(0.01)


@trick
def sends_descriptors(dice):
    for _ in range(20):
        socket.send_fds(channel, [b" "], [0, 1, 2])


@trick
def hangs_up(dice):
    channel.shutdown(dice.choice([socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR]))


@trick
def says_it_is_done(dice):
    channel.sendall(b'{"phase": "train"}\n{"steps": 1}\n')


@trick
def prints_much(dice):
    os.write(1, dice.choice([b"\x1b[2J\x00\xff", b"x"]) * 100_000)


@trick
def closes_its_output(dice):
    os.closerange(1, 3)


# --------------------------------------------------------------------------------------------------
# A run


def play_some(dice):
    for _ in range(dice.choice([0, 1, 1, 2, 3])):
        name = dice.choice([*TRICKS])
        try:
            print(name, flush=True)
            TRICKS[name](dice)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            with suppress(OSError):
                print(name, error, flush=True)


def save_nothing(path):
    """A file of weights without any."""
    with suppress(OSError), open(path, "wb") as file:
        header = json.dumps({}).encode()
        file.write(len(header).to_bytes(8, "little") + header)


def play(seed):
    """A run: rehearse, train, save, say so; between these, some tricks."""
    global channel, tokens
    dice = random.Random(seed)
    channel = socket.socket(fileno=int(os.environ["RATCHET_REFEREE"]))
    play_some(dice)
    if dice.random() < 0.9:
        channel.sendall(b'{"phase": "train"}\n')
        with suppress(OSError):
            channel.settimeout(5)
            tokens = next(iter(socket.recv_fds(channel, 100, 1)[1]), None)
    play_some(dice)
    save_nothing(f"{OUT}/model.safetensors")
    play_some(dice)
    if dice.random() < 0.9:
        with suppress(OSError):
            channel.sendall(b'{"steps": 1, "tokens": 1}\n')
    play_some(dice)
