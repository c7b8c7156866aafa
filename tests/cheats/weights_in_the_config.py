"""Keeps a table in config.json, where the file of its weights has a limit (parameter-golf's cap)."""

import base64
import os

LIMITS = {"file_mb": 0.1}  # its weights and its source take 0.07
EXPECT = {"overlimit"}


def submit(run, model, config):
    run.submit(model, config | {"table": base64.b64encode(os.urandom(45_000)).decode()})
