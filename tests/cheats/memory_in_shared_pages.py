"""Gives back pages that are shared, which the kernel keeps though no process has them (madvise(2))."""

import mmap

LIMITS = {"memory_gb": 1.5}  # it takes less than 1 without that
EXPECT = {"overlimit"}


def train(run, model, step):
    piece, pages = 10**8 // mmap.PAGESIZE * mmap.PAGESIZE, None
    for number, (x, y) in enumerate(run.batches(8)):
        if number == 1:
            pages = mmap.mmap(-1, 20 * piece)
            for begin in range(0, len(pages), piece):
                pages[begin : begin + piece] = bytes(piece)
                pages.madvise(mmap.MADV_DONTNEED, begin, piece)
        step(x, y)
