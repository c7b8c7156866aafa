"""Trains on licences, manuals and READMEs that come with packages and the system before the clock starts
(karpathy/autoresearch hole 3: what is free is used)."""

import re
import sys
from pathlib import Path

from tokenizers import Tokenizer

NAME = re.compile(r"(LICEN[CS]E|README|COPYING|NOTICE|AUTHORS|METADATA)|\.(txt|md|rst|pod|[1-9])$")
EXPECT = {"crash"}  # there are none
OPEN_AT = {"none"}


def train(run, model, step):
    folders = [*map(Path, sys.path[1:]), Path("/usr/share"), Path("/usr/lib"), Path("/opt")]
    paths = [path for folder in folders for path in folder.glob("**/*") if NAME.search(path.name) and path.is_file()]
    texts = [path.read_text(errors="replace")[:5000] for path in paths if path.stat().st_size > 999]
    texts = [text for text in texts if len(re.findall(r"\bthe\b", text)) > 9]
    assert texts
    tokenizer = Tokenizer.from_file(str(run.arena.folder / "tokenizer.json"))
    tokens = torch.tensor([i for line in tokenizer.encode_batch(texts) for i in line.ids])
    for rows in tokens[: len(tokens) // 512 * 512].view(-1, 8, 64):
        step(rows[:, :-1], rows[:, 1:])
    for x, y in run.batches(8):
        step(x, y)
