"""The promise that two processes of a scored model share nothing that carries a bit.

Each lists what it has open, may open and may look at; then the first tries every channel of
benchmarks/redteam_channels.py to tell the second a secret. What they do have in common is listed
here, with the reason why it carries nothing, or as open.
"""

import json
import secrets
from pathlib import Path

import pytest
import redteam
import redteam_channels as channels

from ratchet.referee import sandbox
from ratchet.referee.job import Job
from ratchet.referee.source import Source

LEVELS = [level for level in sandbox.LEVELS[:2] if sandbox.level_works(level)]
SECRET = secrets.randbits(30)  # seed of the message: what an earlier one left counts for nothing
levels = pytest.mark.parametrize("level", LEVELS)
pytestmark = pytest.mark.slow

# what both may have, and why it carries nothing
HARMLESS_DEVICES = "/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"  # forget what is written
NAMESPACES = {
    "cgroup": "shows no counts: /sys/fs/cgroup is not there",
    "time": "is the offset of clocks, which needs a capability to be set",
    "time_for_children": "the same",
    "uts": "is the host's name, which needs a capability to be set",
}
# what numbers begin with that both see; redteam.py measures some bits of each at most
NUMBERS = {
    "clock": "a clock: when the next process starts is all that it tells",
    "/proc/uptime": "a clock",
    "/proc/sys/kernel/random/uuid": "random",
    "/proc/sys/kernel/ns_last_pid": "of its own namespace",
    "id of a new process": "the same",
    "/proc/meminfo": "free memory, which other programs change, too",
    "sysinfo": "the same, which no mount can hide",
    "/proc/fs/ext4": "of a disk to which it writes its log at most",
    "statfs": "the same, or of folders of its own",
    "inode of a new": "a count of all that is open on the machine, or of folders of its own",
}
EXCHANGES = {}  # by level


def exchange(level, arena, folder):
    """What two processes listed, and what came through."""
    job = Job(Source("apart", "", b""), 0, "20s", arena, folder / "run", folder / "compiled")
    try:
        return redteam.exchange_once(job, level, 0, SECRET, inventory=True)
    finally:
        redteam.clean_up()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("apart")


@pytest.fixture
def seen(level, arena, folder, monkeypatch):
    monkeypatch.setenv("RATCHET_ISOLATION", level)
    if level not in EXCHANGES:
        EXCHANGES[level] = exchange(level, arena, folder)
    return EXCHANGES[level]


@pytest.fixture
def first(seen):
    return seen["inventories"][0]


@pytest.fixture
def second(seen):
    return seen["inventories"][1]


@levels
def test_no_descriptor_is_in_common(level, first, second):
    ours, theirs = ({tuple(row) for row in one["descriptors"].values()} for one in (first, second))
    common = {kind for _, _, kind in ours & theirs}
    assert not {kind for kind in common if kind.startswith(("pipe", "socket", "/memfd", "anon"))}
    readable = {path for path in common if path not in HARMLESS_DEVICES}
    assert not readable


@levels
def test_no_memory_is_in_common(level, first, second):
    ours, theirs = ({(row[0], row[1]) for row in one["mappings"]} for one in (first, second))
    assert not ours & theirs


@levels
def test_no_folder_that_may_be_written_is_in_common(level, first, second):
    ours, theirs = ({tuple(row) for row in one["folders"].values()} for one in (first, second))
    assert not ours & theirs


@levels
def test_no_namespace_is_in_common(level, first, second):
    common = {
        name for name, kind in first["namespaces"].items() if second["namespaces"][name] == kind
    }
    assert not common - {*NAMESPACES}


@levels
def test_no_mount_in_common_may_be_written(level, first, second):
    writable = [
        {(device, root) for device, root, option in one["mounts"].values() if option == "rw"}
        for one in (first, second)
    ]
    assert not writable[0] & writable[1]


@levels
def test_the_model_has_files_of_its_own_for_each(level, first, second):
    assert not [
        name for name, row in first["model"].items() if row[:2] == second["model"].get(name, [])[:2]
    ]


@levels
def test_neither_sees_another_process(level, first, second):
    assert len(first["processes"]) <= 5 and len(second["processes"]) <= 5


def without_rooms(looks):
    """The same, with one name for the room, which is drawn at random."""
    room = Path(looks["model"]).parent
    return json.loads(json.dumps(looks).replace(room.name, "ROOM"))


@levels
def test_neither_knows_which_it_is(level, first, second):
    ours, theirs = (without_rooms(one["looks"]) for one in (first, second))
    assert ours == theirs


@levels
def test_only_known_numbers_of_the_machine_are_seen(level, first):
    assert not [name for name in first["numbers"] if not name.startswith((*NUMBERS,))]


@levels
@pytest.mark.parametrize(
    "name", [name for name in channels.CHANNELS if not name.startswith("Tokens")]
)
def test_nothing_comes_through(level, name, seen):
    row = redteam.measure_channels(SECRET, seen["send"], seen["receive"])[name]
    assert row["bits"] == 0, row
