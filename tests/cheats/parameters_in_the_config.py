"""Keeps a table as digits in config.json, where the number of parameters has a limit (parameter-golf's
cap)."""

import base64
import os

LIMITS = {"params_m": 0.017}  # it has 0.0169
EXPECT = {"invalid"}


def submit(run, model, config):
    run.submit(model, config | {"table": base64.b64encode(os.urandom(200_000)).decode()})
