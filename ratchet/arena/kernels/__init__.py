"""Fused kernels for a contestant to call or to replace, each with a plain twin."""

import importlib.util

from ratchet.arena.kernels import flash4  # noqa: F401
from ratchet.arena.kernels.attention import causal_attention
from ratchet.arena.kernels.copying import add_bonus_, find_followers
from ratchet.arena.kernels.loss import softcapped_cross_entropy
from ratchet.arena.kernels.mlp import relu2_mlp
from ratchet.arena.kernels.tables import rowwise_adam_

if importlib.util.find_spec("triton"):  # not on macOS nor Windows
    from ratchet.arena.kernels import triton_loss, triton_mlp, triton_tables  # noqa: F401

__all__ = [
    "add_bonus_",
    "causal_attention",
    "find_followers",
    "relu2_mlp",
    "rowwise_adam_",
    "softcapped_cross_entropy",
]
