"""Keeps a table among the metadata of its weights, where the number of parameters has a limit
(parameter-golf's cap)."""

import base64
import os

import safetensors.torch

LIMITS = {"params_m": 0.017}  # it has 0.0169
EXPECT = {"invalid"}


def submit(run, model, config):
    own_submit = run.submit
    import ratchet.arena.run as arena_run

    def save_weights(model, folder):
        metadata = {"table": base64.b64encode(os.urandom(200_000)).decode()}
        path = str(folder / "model.safetensors")
        safetensors.torch.save_file(model.state_dict(), path, metadata)

    arena_run.save_weights = save_weights
    own_submit(model, config)
