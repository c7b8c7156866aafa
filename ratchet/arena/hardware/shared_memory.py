"""Memory that two processes share: the host's by a descriptor, a GPU's by a handle of CUDA.

Both ends call the same few functions of the system or of CUDA's runtime, so that nothing has a name
which a third process could find: PyTorch's own way leaves counters in /dev/shm.

Sources: memfd_create(2); CUDA's runtime API, cudaIpcGetMemHandle.
"""

import ctypes
import fcntl
import math
import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch

HANDLE_BYTES = 64  # of cudaIpcMemHandle_t
LAZY_PEER_ACCESS = 1  # cudaIpcMemLazyEnablePeerAccess, which CUDA wants to hear
TYPES = {torch.float32: "<f4", torch.uint8: "|u1"}


class Shared(NamedTuple):
    """A tensor of zeros, and the key by which another process opens it."""

    tensor: torch.Tensor
    descriptor: int | None  # to be handed over, then closed; None: of a GPU
    handle: str  # "": of the host


def create_shared(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Shared:
    """Share memory of a device, or of the host if that is no CUDA device. Raises RuntimeError."""
    if device.type == "cuda":
        tensor, handle = create_cuda_tensor(shape, dtype, device)
        return Shared(tensor, None, handle.hex())
    descriptor = create_descriptor()
    os.ftruncate(descriptor, max(1, math.prod(shape) * dtype.itemsize))
    fix_size(descriptor)
    return Shared(open_host_tensor(descriptor, shape, dtype), descriptor, "")


def open_shared(
    shape: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
    handle: str,
    descriptors: Iterator[int],
) -> torch.Tensor:
    """The tensor that another process shares; one of the host takes the next descriptor."""
    if handle:
        return open_cuda_tensor(bytes.fromhex(handle), shape, dtype, device)
    return open_host_tensor(next(descriptors), shape, dtype)


# --------------------------------------------------------------------------------------------------
# Of the host


def create_descriptor() -> int:
    """An empty file without a name, in memory where the system can do so."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("shared", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def fix_size(descriptor: int) -> None:
    """Let nobody cut a file short, which kills who reads it, or have it hold more memory."""
    if hasattr(fcntl, "F_ADD_SEALS"):
        with suppress(OSError):  # it has a disk
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)


def open_host_tensor(descriptor: int, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """The tensor of that shape in an open file."""
    return torch.frombuffer(mmap.mmap(descriptor, 0), dtype=dtype).view(*shape)


# --------------------------------------------------------------------------------------------------
# Of a GPU


def call_cuda(function: str, *args: Any) -> None:
    """Call a function of the CUDA runtime, which PyTorch loads for all to see. Raises RuntimeError.

    torch/__init__.py does so with libtorch_global_deps.so.
    """
    if code := getattr(ctypes.CDLL(None), function)(*args):
        raise RuntimeError(f"{function} failed with CUDA error {code}")


class CudaMemory:
    """A piece of a GPU's memory that torch.as_tensor() takes as it is."""

    def __init__(self, pointer: int, shape: Sequence[int], dtype: torch.dtype) -> None:
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": tuple(shape),
            "typestr": TYPES[dtype],
            "data": (pointer, False),
        }


def create_cuda_tensor(
    shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, bytes]:
    """(a tensor of zeros, the handle by which open_cuda_tensor() maps it in another process).

    free_cuda_tensor() frees it. Not of PyTorch's allocator, whose segments can't always be shared
    (pytorch/pytorch issue 165685). Raises torch.OutOfMemoryError, RuntimeError.
    """
    torch.cuda.init()
    pointer, handle = ctypes.c_void_p(), ctypes.create_string_buffer(HANDLE_BYTES)
    size = math.prod(shape) * dtype.itemsize
    with torch.cuda.device(device):
        call_cuda("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(size))
        call_cuda("cudaIpcGetMemHandle", handle, pointer)
        memory = CudaMemory(pointer.value or 0, shape, dtype)
        return torch.as_tensor(memory, device=device).zero_(), handle.raw


def open_cuda_tensor(
    handle: bytes, shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """The tensor of that shape in another process's memory. Raises RuntimeError."""

    class Handle(ctypes.Structure):  # passed by value
        _fields_ = [("reserved", ctypes.c_char * HANDLE_BYTES)]

    torch.cuda.init()
    pointer = ctypes.c_void_p()
    flags = ctypes.c_uint(LAZY_PEER_ACCESS)
    with torch.cuda.device(device):
        of_other = Handle.from_buffer_copy(handle)
        call_cuda("cudaIpcOpenMemHandle", ctypes.byref(pointer), of_other, flags)
        return torch.as_tensor(CudaMemory(pointer.value or 0, shape, dtype), device=device)


def free_cuda_tensor(tensor: torch.Tensor) -> None:
    """Free what create_cuda_tensor() made; nobody may use it any more."""
    call_cuda("cudaFree", ctypes.c_void_p(tensor.data_ptr()))
