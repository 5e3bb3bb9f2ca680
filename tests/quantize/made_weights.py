"""Weights made for tests, and the moment of inputs that go together."""

from __future__ import annotations

import torch
from torch import Tensor


def correlated(num_inputs: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A weight matrix and the second moment of inputs that depend on each other."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(num_inputs, num_inputs, generator=generator)
    inputs = torch.randn(600, num_inputs, generator=generator) @ (mix * 0.1 + torch.eye(num_inputs))
    weight = torch.randn(48, num_inputs, generator=generator)
    return weight, inputs.T @ inputs / 600
