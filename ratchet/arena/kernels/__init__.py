"""Fused kernels for a contestant to call or to replace, each with a plain twin."""

from ratchet.arena.kernels.attention import causal_attention
from ratchet.arena.kernels.copying import find_followers
from ratchet.arena.kernels.loss import softcapped_cross_entropy
from ratchet.arena.kernels.tables import rowwise_adam_

__all__ = ["causal_attention", "find_followers", "rowwise_adam_", "softcapped_cross_entropy"]
