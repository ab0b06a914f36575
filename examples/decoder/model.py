"""A small GPT-2 (Radford et al. 2019) over bytes, in a size that trains in minutes."""

from __future__ import annotations

import torch
from torch import nn
from transformers import GPT2Config, GPT2Model

LENGTH = 128  # tokens that it was trained on; positions beyond are untrained
BYTES = 256  # a token is a byte


class Decoder(nn.Module):
    """GPT-2's blocks below a head that shares the embedding's table."""

    def __init__(self, layers: int, width: int, heads: int) -> None:
        super().__init__()
        config = GPT2Config(
            vocab_size=BYTES, n_positions=LENGTH, n_embd=width, n_layer=layers, n_head=heads, use_cache=False,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        self.body = GPT2Model(config)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Bytes (n, length) as int64 -> logits of the byte after each (n, length, 256)."""
        states = self.body(input_ids=input_ids).last_hidden_state
        return states @ self.body.wte.weight.T


def decoder() -> Decoder:
    """Four layers of width 192: 1.9 million parameters."""
    return Decoder(layers=4, width=192, heads=4)
