"""Weights as they are served: rounded to bfloat16, and the matrices to int8 with a scale for every row.

Within ``rounded`` the network computes with such weights while gradients go to the exact ones, so that training
finds weights that bear it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_LEVELS = 127


@contextmanager
def rounded(network: nn.Module, *, is_on: bool) -> Iterator[None]:
    """Let the weights be rounded within; restore the exact ones after."""
    exact = {name: each.detach().clone() for name, each in network.named_parameters()} if is_on else {}
    with torch.no_grad():
        for name, each in network.named_parameters():
            if is_on:
                is_quantized = each.ndim == 2 and "embed" not in name
                each.copy_(_int8_rows(_bfloat16(each)) if is_quantized else _bfloat16(each))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, each in network.named_parameters():
                if is_on:
                    each.copy_(exact[name])


def _bfloat16(weights: Tensor) -> Tensor:
    return weights.bfloat16().float()


def _int8_rows(weights: Tensor) -> Tensor:
    scale = weights.abs().amax(1, keepdim=True).clamp_min(1e-12) / _LEVELS
    return (weights / scale).round() * scale
