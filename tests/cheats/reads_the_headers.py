"""Trains on the comments in C++ headers, of PyTorch and of the system, before the clock starts (karpathy/autoresearch
hole 3: what is free is used)."""

import re
import sys
from pathlib import Path

from tokenizers import Tokenizer

EXPECT = {"crash"}  # there are none
OPEN_AT = {"none"}


def train(run, model, step):
    folders = [Path("/usr/include"), *map(Path, sys.path[1:])]
    paths = [path for folder in folders for path in folder.glob("**/*.h")][:5000]
    texts = [text for path in paths for text in re.findall(r"/\*.{200,}?\*/", path.read_text(errors="replace"), re.DOTALL)]
    assert texts
    tokenizer = Tokenizer.from_file(str(run.arena.folder / "tokenizer.json"))
    tokens = torch.tensor([i for line in tokenizer.encode_batch(texts) for i in line.ids])
    for rows in tokens[: len(tokens) // 512 * 512].view(-1, 8, 64):
        step(rows[:, :-1], rows[:, 1:])
    for x, y in run.batches(8):
        step(x, y)
