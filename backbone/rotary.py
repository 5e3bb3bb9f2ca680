"""Rotary position embedding (Su et al., arXiv 2104.09864), halves convention of Hugging Face."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backbone.config import NetworkConfig, RopeScaling


def inverse_frequencies(config: NetworkConfig) -> Tensor:
    """Return the angular frequency of each pair of channels, float32 [head_dim / 2]."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    inverse = 1.0 / (config.rope_theta**exponents)
    if config.rope_scaling is None:
        return inverse
    if config.rope_scaling.kind == "linear":
        return inverse / config.rope_scaling.factor
    return _llama3(inverse, config.rope_scaling)


def _llama3(inverse: Tensor, scaling: RopeScaling) -> Tensor:
    # Long wavelengths are stretched, short ones kept, those between are blended
    # (Llama 3.1 model card).
    wavelength = 2 * math.pi / inverse
    rotations = scaling.original_max_position_embeddings / wavelength
    spread = scaling.high_freq_factor - scaling.low_freq_factor
    keep = ((rotations - scaling.low_freq_factor) / spread).clamp(0.0, 1.0)
    return keep * inverse + (1 - keep) * inverse / scaling.factor


def cos_sin(inverse: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return float32 cos and sin of shape [*positions.shape, 1, head_dim]."""
    angles = positions.float().unsqueeze(-1) * inverse  # [..., head_dim / 2]
    angles = torch.cat((angles, angles), dim=-1).unsqueeze(-2)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [..., heads, head_dim] by the angles of its positions, in x's own dtype."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return x * cos.to(x.dtype) + turned * sin.to(x.dtype)
