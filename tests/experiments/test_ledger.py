"""The ledger: whole lines, an unbroken chain, and a clear word when it is broken."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from ratchet.arena.files import Full, sha256
from ratchet.experiments import ledger
from ratchet.experiments.ledger import Broken, Ledger


def fill(folder, count=3):
    book = Ledger(folder)
    for number in range(count):
        book.append("opens", role="try", idea=f"idea {number}")
    return book


def test_lines_name_the_hash_of_the_line_before(tmp_path):
    book = fill(tmp_path)
    lines = book.path.read_bytes().splitlines()
    assert [json.loads(line)["before"] for line in lines] == ["", *map(sha256, lines[:2])]
    assert book.head_hash() == sha256(lines[2]) and [row["n"] for row in book.rows()] == [1, 2, 3]


def test_an_empty_ledger_is_a_ledger(tmp_path):
    assert Ledger(tmp_path).rows() == [] and Ledger(tmp_path).head_hash() == ""
    (tmp_path / "ledger.jsonl").touch()
    assert Ledger(tmp_path).experiments() == {}


def edited(lines):
    lines[1] = lines[1].replace(b"idea 1", b"idea 9")


def reordered(lines):
    lines[1], lines[2] = lines[2], lines[1]


def dropped(lines):
    del lines[1]


def headless(lines):
    del lines[0]


def garbage(lines):
    lines[1] = b"not json"


@pytest.mark.parametrize(
    "harm, line", [(edited, 3), (reordered, 2), (dropped, 2), (headless, 1), (garbage, 2)]
)
def test_a_broken_ledger_is_told_by_its_line(tmp_path, harm, line):
    book = fill(tmp_path, 4)
    lines = book.path.read_bytes().splitlines()
    harm(lines)
    book.path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(Broken, match=rf"line {line} .*restore"):
        Ledger(tmp_path).rows()
    with pytest.raises(Broken):
        Ledger(tmp_path).append("opens", role="try")
    assert len(book.path.read_bytes().splitlines()) == len(lines)


def test_a_line_without_an_end_is_told_and_gives_way_to_the_next(tmp_path):
    """Kill -9 can end a write between two pages of memory."""
    book = fill(tmp_path, 4)
    with open(book.path, "r+b") as file:
        file.truncate(book.path.stat().st_size - 20)
    for reader in (book, Ledger(tmp_path)):
        assert [row["n"] for row in reader.rows()] == [
            1,
            2,
            3,
        ] and "line 4 is cut off" in reader.cut_off_line()
    assert Ledger(tmp_path).append("opens", role="try") == 4
    for reader in (book, Ledger(tmp_path)):
        assert [row["n"] for row in reader.rows()] == [1, 2, 3, 4] and not reader.cut_off_line()


def test_a_line_that_only_lacks_its_end_is_kept(tmp_path):
    """An editor took it, or kill -9 came just before it."""
    book = fill(tmp_path, 2)
    with open(book.path, "r+b") as file:
        file.truncate(book.path.stat().st_size - 1)
    assert Ledger(tmp_path).append("opens", role="try") == 3
    for reader in (book, Ledger(tmp_path)):
        assert [row.get("idea") for row in reader.rows()] == [
            "idea 0",
            "idea 1",
            None,
        ] and not reader.cut_off_line()


def test_a_run_whose_ledger_was_taken_away_is_not_written_into_another(tmp_path):
    book = fill(tmp_path, 2)
    for text in (
        b"",
        book.path.read_bytes().splitlines(keepends=True)[0],
    ):  # deleted, an older copy
        book.path.write_bytes(text)
        with pytest.raises(Broken, match="fewer lines .* restore"):
            book.append("run", n=2)
        assert book.path.read_bytes() == text
    book.path.unlink()
    book = fill(tmp_path)
    book.path.write_bytes(b"")
    with pytest.raises(Broken, match="fewer lines"):
        book.append("opens", role="try")
    row = {"kind": "run", "n": 7, "before": ""}
    book.path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    for _ in range(2):
        with pytest.raises(Broken, match="line 1 is of experiment 7, which no line opens"):
            book.rows()


def write_many(folder, name):
    for number in range(25):
        Ledger(folder).append("opens", role="try", idea=f"{name} {number} " + "x" * 5000)


def test_concurrent_writers_do_not_interleave(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_many, args=(tmp_path, name)) for name in "abcd"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    rows = Ledger(tmp_path).rows()
    assert [row["n"] for row in rows] == [*range(1, 101)]
    assert {row["idea"].split()[0] for row in rows} == {*"abcd"}


def write_long(folder):
    for _ in range(10):
        Ledger(folder).append("opens", role="try", idea="x" * 2**20)


@pytest.mark.parametrize("write, args", [(write_many, "a"), (write_long, "")])
def test_a_killed_writer_leaves_whole_lines(tmp_path, write, args):
    context = multiprocessing.get_context("fork")
    for round_ in range(10):
        writer = context.Process(target=write, args=(tmp_path, *args))
        writer.start()
        time.sleep(0.004 * round_)
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        before = len(Ledger(tmp_path).rows())
        Ledger(tmp_path).append("opens", role="try")
        assert len(Ledger(tmp_path).rows()) == before + 1


def test_a_full_disk_is_an_error_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("ratchet.experiments.ledger.FREE_BYTES", 2**62)
    with pytest.raises(Full, match="free some"):
        Ledger(tmp_path).check_room()


def test_a_disk_that_fills_up_leaves_whole_lines(tmp_path):
    """Half of a line fits: what was written of it is taken back."""
    book = fill(tmp_path)

    class Half:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, line):
            return self.file.write(line[: len(line) // 2])

    with book._locked() as file:
        size = len(file.read())
        with pytest.raises(Full, match="can't be written"):
            book._write(Half(file), size, b'{"kind": "run"}\n')
    assert len(book.rows()) == 3


def test_figures_that_are_no_numbers_are_refused(tmp_path):
    with pytest.raises(ValueError):
        fill(tmp_path).append("run", n=1, nats=float("nan"))
    assert len(Ledger(tmp_path).rows()) == 3


def test_a_row_counts_unless_its_device_was_shared():
    run = {"status": "ok", "shared": False, "busy": False}
    assert ledger.is_valid(run) and ledger.is_valid(run | {"shared": True, "busy": True})
    assert not ledger.is_valid(run | {"shared": True}) and not ledger.is_valid(
        run | {"status": "crash"}
    )
