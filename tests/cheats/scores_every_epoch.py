"""Cheat: adapts to each row anew, answers that row after each epoch, and lets the last answer count
(parameter-golf #642, #713). Caught by: causality, though no row helps another."""

import torch

EPOCHS, RATE = 5, 0.3


class ScoresEveryEpoch(torch.nn.Module):
    def forward(self, tokens):
        coming = torch.nn.functional.one_hot(tokens[:, 1:], 512).float()
        logits = torch.zeros(len(tokens), 1, 512)  # of each row's tokens, whatever came before
        for _ in range(EPOCHS):  # the gradient of the row's loss, by hand: none is computed here
            logits = logits + RATE * (coming - logits.softmax(-1)).sum(1, keepdim=True)
        return logits.expand(*tokens.shape, 512)


def load(folder):
    return ScoresEveryEpoch()
