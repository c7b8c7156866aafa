"""Files: whole or as they were, and a sentence when the disk is full."""

import errno
import os

import pytest

from ratchet import __main__
from ratchet.arena import files
from ratchet.arena.files import NO_ROOM, Full, append_line, cannot_write, is_full, replace_file


def fails(code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("code", NO_ROOM)
def test_a_full_disk_leaves_a_file_as_it_was(tmp_path, monkeypatch, code):
    replace_file(tmp_path / "page.html", "± first")
    monkeypatch.setattr(files.os, "fsync", fails(code))
    with pytest.raises(Full, match=r"page\.html can't be written \(.*\): free some disk, then try"):
        replace_file(tmp_path / "page.html", "second")
    assert (tmp_path / "page.html").read_bytes() == "± first".encode()
    assert os.listdir(tmp_path) == ["page.html"]


def test_another_error_is_not_called_a_full_disk(tmp_path, monkeypatch):
    error = OSError(errno.EIO, "Input/output error")
    assert "free some disk" not in str(cannot_write("lines", error)) and not is_full(error)
    monkeypatch.setattr(files.os, "fsync", fails(errno.EIO))
    with pytest.raises(OSError, match="error"):
        replace_file(tmp_path / "page.html", "text")


def test_a_folder_that_is_not_there_is_no_full_disk(tmp_path):
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "none/page.html", "text")


def test_a_line_is_whole_or_absent(tmp_path, monkeypatch):
    with open(tmp_path / "lines", "a+b", buffering=0) as file:
        append_line(file, 0, b"first\n", "lines")
        monkeypatch.setattr(files.os, "fsync", fails(errno.ENOSPC))
        with pytest.raises(Full, match=r"lines can't be written"):
            append_line(file, 6, b"second\n", "lines")
    assert (tmp_path / "lines").read_bytes() == b"first\n"


def test_any_other_write_that_finds_no_room_is_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(__main__, "app", fails(errno.ENOSPC))
    with pytest.raises(SystemExit) as end:
        __main__.main()
    told = capsys.readouterr().err
    assert (
        end.value.code == 2
        and "the disk can't be used (No space left on device): fix that and retry" in told
        and told.count("\n") == 1
    )
