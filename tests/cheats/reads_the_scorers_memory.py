"""Reads and traces the process that has the targets from the one that its model runs in (pygpubench's
exploits/)."""

import ctypes
import os

EXPECT = {"invalid"}
OPEN_AT = {"none"}


def load(folder):
    parent = os.getppid()
    opened, libc = 0, ctypes.CDLL(None, use_errno=True)
    for name in ("mem", "environ", "maps"):
        try:
            with open(f"/proc/{parent}/{name}", "rb") as file:
                opened += name != "mem" and b"score" in open(f"/proc/{parent}/cmdline", "rb").read()
                file.read(0)
        except OSError as error:
            print(name, error)
    if not opened and libc.ptrace(16, parent, None, None):  # PTRACE_ATTACH
        raise PermissionError("it can't look at its parent")
    model = Tiny(**json.loads((folder / "config.json").read_text()))
    load_model(model, str(folder / "model.safetensors"))
    return model
