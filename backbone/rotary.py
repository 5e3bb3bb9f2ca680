"""Rotary position embedding (Su et al., arXiv 2104.09864), halves convention of Hugging Face."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backbone.config import NetworkConfig
from backbone.errors import CheckpointError
from backbone.rope_scaling import RopeScaling


def inverse_frequencies(config: NetworkConfig) -> Tensor:
    """Return the angular frequency of each pair of channels, float32 [bases, head_dim / 2].

    There is one base, or two: full attention's and then that of layers with a window (Gemma 3).
    """
    bases = [_stretched(_plain(config.rope_theta, config.head_dim), config)]
    if config.local_rope_theta is not None:
        bases.append(_plain(config.local_rope_theta, config.head_dim))
    return torch.stack(bases)


def _plain(theta: float, head_dim: int) -> Tensor:
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    return 1.0 / theta**exponents


def _stretched(inverse: Tensor, config: NetworkConfig) -> Tensor:
    if config.rope_scaling is None:
        return inverse
    if config.rope_scaling.kind == "linear":
        return inverse / config.rope_scaling.factor
    if config.rope_scaling.kind == "yarn":
        return _yarn(inverse, config.rope_scaling, config.head_dim, config.rope_theta)
    if config.rope_scaling.kind == "longrope":
        return _longrope(inverse, config, config.rope_scaling)
    return _llama3(inverse, config.rope_scaling)


def attention_factor(config: NetworkConfig) -> float:
    """Return by what rotated queries and keys are multiplied, so that attention stays sharp.

    Only yarn and longrope do so.
    """
    scaling = config.rope_scaling
    if scaling is None or scaling.kind not in ("yarn", "longrope"):
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.kind == "longrope":
        original = scaling.original_max_position_embeddings
        grown = max(scaling.factor, 1.0)
        return math.sqrt(1 + math.log(grown) / math.log(original))
    if scaling.mscale and scaling.mscale_all_dim:
        return _sharpness(scaling.factor, scaling.mscale) / _sharpness(
            scaling.factor, scaling.mscale_all_dim
        )
    return _sharpness(scaling.factor, 1.0)


def _sharpness(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def _yarn(inverse: Tensor, scaling: RopeScaling, dim: int, theta: float) -> Tensor:
    # Channels that turn often within the trained context keep their angle, those that turn less
    # than once are stretched, and a ramp lies between (arXiv 2309.00071, section 3.2).
    def channel(turns: float) -> float:
        length = scaling.original_max_position_embeddings / (turns * 2 * math.pi)
        return dim * math.log(length) / (2 * math.log(theta))

    low, high = channel(scaling.beta_fast), channel(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    spread = high - low or 0.001
    ramp = ((torch.arange(dim // 2).float() - low) / spread).clamp(0.0, 1.0)
    return (1 - ramp) * inverse + ramp * inverse / scaling.factor


def _longrope(inverse: Tensor, config: NetworkConfig, scaling: RopeScaling) -> Tensor:
    # One list for a whole run: keys that are kept could not change over in mid-answer.
    length = config.rope_len or config.max_position_embeddings
    is_long = length > scaling.original_max_position_embeddings
    factors = torch.tensor(scaling.long_factor if is_long else scaling.short_factor)
    if factors.shape != inverse.shape:
        raise CheckpointError(
            f"config.json has {len(factors)} rotary factors and the heads need {len(inverse)}; "
            "fetch the model again"
        )
    return inverse / factors


def _llama3(inverse: Tensor, scaling: RopeScaling) -> Tensor:
    # Long wavelengths are stretched, short ones kept, those between are blended
    # (Llama 3.1 model card).
    wavelength = 2 * math.pi / inverse
    rotations = scaling.original_max_position_embeddings / wavelength
    spread = scaling.high_freq_factor - scaling.low_freq_factor
    keep = ((rotations - scaling.low_freq_factor) / spread).clamp(0.0, 1.0)
    return keep * inverse + (1 - keep) * inverse / scaling.factor


def cos_sin(inverse: Tensor, positions: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return, for each base of inverse, float32 cos and sin [*positions.shape, 1, head_dim]."""
    pairs = []
    for base in inverse:
        angles = positions.float().unsqueeze(-1) * base  # [..., head_dim / 2]
        angles = torch.cat((angles, angles), dim=-1).unsqueeze(-2)
        pairs.append((angles.cos(), angles.sin()))
    return pairs


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [..., heads, head_dim] by the angles of its positions, in x's own dtype."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return x * cos.to(x.dtype) + turned * sin.to(x.dtype)
