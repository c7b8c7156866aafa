"""Fused kernels for a contestant to call or to replace, each with a plain twin."""

from ratchet.arena.kernels.attention import causal_attention
from ratchet.arena.kernels.copying import find_followers
from ratchet.arena.kernels.loss import softcapped_cross_entropy

__all__ = ["causal_attention", "find_followers", "softcapped_cross_entropy"]
