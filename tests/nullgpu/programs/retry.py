"""A rehearsal that finds no memory for 8 rows; prints with how many it went, what was compiled.

All compiled layers share one frame, as blocks do: it has a variant for each layer and shape. One
more than the compiler keeps is an error here.
"""

import ctypes
import json
import os
import tempfile
from pathlib import Path

import torch
from torch import nn

from ratchet.arena import run as arena_run
from ratchet.arena.definition import find_arena
from ratchet.arena.hardware.compiling import Part

ROW_BYTES = 2**25
nullgpu = ctypes.CDLL(os.environ["LD_PRELOAD"])
nullgpu.nullgpu_limit(ctypes.c_size_t(6 * ROW_BYTES))
torch._dynamo.config.recompile_limit = 2
torch._dynamo.config.fail_on_recompile_limit_hit = True
arena_run.matmul_peak = lambda device: (1e12, "a guess")
compiled = []


def compiler(graph, examples):
    """Compiles nothing, and remembers for how many rows."""
    compiled.append(len(examples[0]))
    return graph.forward


class Layer(nn.Module):
    def __init__(self, power):
        super().__init__()
        self.power = power

    def forward(self, x):
        return x**self.power

    def compile(self, **options):
        super().compile(backend=compiler, **options)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(512, 4)
        self.layers = nn.ModuleList([Layer(2), Layer(3)])

    def forward(self, tokens):
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return x


def step(x, y):
    for piece, _, _ in run.pieces(x, y):
        loss = model(piece).sum()
        room = torch.empty(len(piece) * ROW_BYTES, dtype=torch.uint8, device="cuda")
        loss.backward()
        del room


model = Model().cuda()
with tempfile.TemporaryDirectory() as folder:
    run = arena_run.Run(find_arena("tiny"), torch.device("cuda:0"), 0, "1e4tok", Path(folder))
    run.rehearse(step, 8, model, parts=[Part("layers", [*model.layers], 2, 0, 0)], calls=1)
print(json.dumps([run._piece_rows, compiled]))
