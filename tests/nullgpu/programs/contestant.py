"""A contestant without PyTorch, ready in no time: it takes its card and says which one that is."""

KNOB = 0.5
OTHER = 0.25

import ctypes
import json
import os
import socket
from pathlib import Path

channel = socket.socket(fileno=int(os.environ["RATCHET_REFEREE"]))
number = int(os.environ["RATCHET_DEVICE"].removeprefix("cuda:"))
cuda, bus, memory = ctypes.CDLL(None), ctypes.create_string_buffer(16), ctypes.c_void_p()


def report(**message):
    channel.sendall(json.dumps(message).encode() + b"\n")


report(phase="rehearsal")
if error := cuda.cudaSetDevice(number) or cuda.cudaMalloc(ctypes.byref(memory), 1024):
    raise SystemExit(f"CUDA error {error}")
cuda.cudaDeviceGetPCIBusId(bus, 16, number)
print(f"card {bus.value.decode()}")
report(phase="train", rows=1, flops_per_token=1.0)
socket.recv_fds(channel, 100, 1)
Path(os.environ["RATCHET_RUN"], "model.safetensors").touch()
report(phase="score", steps=1, tokens=1000, flops_per_token=1.0)
channel.recv(1)
