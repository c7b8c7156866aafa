"""Several processes with a device each, one run: `torchrun --nproc-per-node=8 train.py`."""

import torch
import torch.distributed as distributed


def peers():
    """(rank of this process, number of processes) of this run."""
    return (
        (distributed.get_rank(), distributed.get_world_size())
        if distributed.is_initialized()
        else (0, 1)
    )


def gather(tensor):
    """The tensors of all processes, which have one shape, concatenated."""
    parts = [torch.empty_like(tensor) for _ in range(peers()[1])]
    distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def own_share(stack: torch.Tensor) -> torch.Tensor:
    """The part of stack [K, ...] that is this process's work: every n-th of n processes."""
    rank, processes = peers()
    return stack[rank::processes]


def join_shares(share: torch.Tensor, size: int) -> torch.Tensor:
    """The whole [size, ...], given to each process what own_share() of it became there."""
    if not distributed.is_initialized():
        return share
    whole = share.new_zeros(size, *share.shape[1:])
    own_share(whole).copy_(share)
    distributed.all_reduce(whole)
    return whole


def sum_gradients(model, *more):
    """Replace gradients, and more tensors, by their sums over all processes.

    A sparse gradient has equally many rows in all of them.
    """
    if not distributed.is_initialized():
        return
    parameters = [p for p in model.parameters() if p.grad is not None]
    dense = [*(p.grad for p in parameters if not p.grad.is_sparse), *more]
    flat = torch.cat([tensor.flatten() for tensor in dense])
    distributed.all_reduce(flat)
    for tensor, piece in zip(dense, flat.split([tensor.numel() for tensor in dense])):
        tensor.copy_(piece.view_as(tensor))
    for p in (p for p in parameters if p.grad.is_sparse):
        rows, values = gather(p.grad._indices()[0]), gather(p.grad._values())
        p.grad = torch.sparse_coo_tensor(rows[None], values, p.shape, check_invariants=False)
