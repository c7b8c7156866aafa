"""Files that processes of a model share are in memory before each of them begins."""

import os

import pytest

from ratchet.arena.model_process import page_cache
from ratchet.arena.model_process.page_cache import SharedFiles, is_in_memory, list_files

pytestmark = pytest.mark.skipif(not page_cache.VMSTAT.exists(), reason="only Linux tells")


@pytest.fixture
def library(tmp_path):
    """A file on a disk, of some pages, that is not in memory."""
    (path := tmp_path / "seen/library").parent.mkdir()
    path.write_bytes(b"x" * 50_000)
    evict(path)
    return path


def evict(path):
    with open(path, "rb") as file:
        os.fdatasync(file.fileno())  # fsync() does nothing in tests
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def in_memory(path):
    with open(path, "rb") as file:
        return is_in_memory(file.fileno(), path.stat().st_size)


def test_what_is_on_the_disk_alone_is_read(library):
    if in_memory(library):
        pytest.skip("this disk is memory, or its kernel doesn't tell")
    SharedFiles([str(library.parent)]).in_memory()
    assert in_memory(library)


def test_it_is_read_again_when_the_kernel_took_something_back(library, monkeypatch):
    read, counts = [], {"pgsteal_file": 1}
    monkeypatch.setattr(page_cache, "read_into_memory", read.append)
    monkeypatch.setattr(page_cache, "count_taken_back", lambda: dict(counts))
    files = SharedFiles([str(library.parent)]).in_memory()
    assert files.in_memory() == files and read == [[(str(library), 50_000)]]
    counts["pgsteal_file"] = 2
    assert files.in_memory() != files and len(read) == 2


def test_nothing_is_read_without_a_referee():
    assert SharedFiles().in_memory() == SharedFiles()


def test_what_a_model_cannot_see_is_not_read(library, tmp_path):
    (tmp_path / "seen/hidden").mkdir()
    (tmp_path / "seen/hidden/other").write_bytes(b"")
    (tmp_path / "seen/link").symlink_to(tmp_path / "elsewhere")
    files = [*list_files([str(tmp_path / "seen")], [str(tmp_path / "seen/hidden")])]
    assert files == [(str(library), 50_000)]
    assert [*list_files([str(library)], [])] == files


def test_files_that_no_memory_holds_are_left(library, monkeypatch):
    """It would only drive out others."""
    monkeypatch.setattr(page_cache, "MOST_SHARE", 0)
    assert not page_cache.read_into_memory([(str(library), 50_000)])


def test_a_kernel_that_hides_its_counters_has_all_read_each_time(library, monkeypatch, tmp_path):
    read = []
    monkeypatch.setattr(page_cache, "VMSTAT", tmp_path / "none")
    monkeypatch.setattr(page_cache, "read_into_memory", read.append)
    SharedFiles([str(library.parent)]).in_memory().in_memory()
    assert len(read) == 2
