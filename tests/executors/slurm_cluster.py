"""A Slurm cluster of two nodes on this machine, from Debian's packages: munge, slurmctld, slurmd.

Each node has one core. Everything of it, its key and its sockets too, lies in one folder.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import psutil

from ratchet.referee import supervisor

PROGRAMS = "munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel"
PATIENCE_SECONDS = 180  # other work may be on this machine
NODES = "one", "two"
CONFIGURATION = """\
ClusterName=ratchet
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
KillWait=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=main Nodes=one,two Default=YES MaxTime=3-0 State=UP
PartitionName=short Nodes=one,two MaxTime=1 State=UP
"""


def why_not() -> str:
    """Why no cluster can be started here, or ""."""
    path = os.environ["PATH"] + ":/usr/sbin"
    if missing := [name for name in PROGRAMS if not shutil.which(name, path=path)]:
        return f"{', '.join(missing)} missing: apt-get install munge slurmctld slurmd slurm-client"
    if os.getuid():
        return "slurmd starts jobs as root alone"
    if len(os.sched_getaffinity(0)) < len(NODES):
        return "each node needs a core"
    return ""


def free_ports(number):
    """So many TCP ports that nobody has now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_until(condition, seconds=PATIENCE_SECONDS):
    """Raises TimeoutError when a condition does not come true."""
    stop = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > stop:
            raise TimeoutError(f"{condition} did not come true in {seconds} s")
        time.sleep(0.1)
    return value


class Cluster:
    """Commands of a cluster that runs."""

    def __init__(self, folder):
        self.configuration = folder / "slurm.conf"

    def call(self, *command):
        """Lines that a command prints."""
        environment = os.environ | {"SLURM_CONF": str(self.configuration)}
        done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment)
        return done.stdout.splitlines()

    def jobs(self, *states):
        """[(id, state, node)] of jobs in these states, by default of all that are not over."""
        some = [f"--states={','.join(states)}"] if states else []
        rows = self.call("squeue", "--noheader", "--format=%i|%T|%N", *some)
        return [tuple(row.split("|")) for row in rows]

    def set_state(self, node, state):
        """Drain a node, or let it work again."""
        self.call("scontrol", "update", f"NodeName={node}", f"State={state}", "Reason=test")

    def is_ready(self):
        return self.call("sinfo", "--noheader", "--format=%T %D", "--partition=main") == ["idle 2"]


@contextlib.contextmanager
def running_cluster(folder):
    """A Cluster, until the block ends; no process of it is left then."""
    folder.chmod(0o755)
    os.chmod(folder.parent, 0o755)
    (folder / "state").mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    text = CONFIGURATION.format(host=host, ports=free_ports(3), folder=folder)
    (folder / "slurm.conf").write_text(text, encoding="utf-8")
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log"}
    munge = [f"--{option}={folder}/munge.{name}" for option, name in files.items()]
    munge += [f"--seed-file={folder}/munge.seed", "--foreground", "--force"]
    cluster, slurm = Cluster(folder), ["-D", "-f", str(folder / "slurm.conf")]
    cores = sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        stack.enter_context(daemon("munged", *munge))
        wait_until((folder / "munge.socket").exists)
        stack.enter_context(daemon("slurmctld", *slurm))
        for node, core in zip(NODES, cores):
            stack.enter_context(daemon("slurmd", *slurm, "-N", node, core=core))
        wait_until(cluster.is_ready)
        try:
            yield cluster
        finally:
            cluster.call("scancel", f"--user={os.getuid()}")
            wait_until(lambda: not cluster.jobs())


@contextlib.contextmanager
def daemon(name, *options, core=None):
    """A program that runs until the block ends, with its children; core: the only one it may use."""
    pinned = ["taskset", "--cpu-list", str(core)] if core is not None else []
    path = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    quiet |= dict(preexec_fn=supervisor.die_with_parent, start_new_session=True)  # Ctrl-C is ours
    with subprocess.Popen([*pinned, path, *options], **quiet) as process:
        try:
            yield
        finally:
            tree = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            psutil.wait_procs(tree, timeout=10)
            for child in tree:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()


def write_commands(folder: Path, **scripts):
    """Stand-ins for Slurm's commands: {name: a shell script}; the folder belongs in front of PATH."""
    folder.mkdir()
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (folder / name).chmod(0o755)
