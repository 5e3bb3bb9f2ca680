"""From the host to the device, without waiting for what the device still computes."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """Start a copy and return where it arrives; later work on the device finds it whole.

    From memory that is not pinned, CUDA waits until the copy is done, behind all work before it.
    The pinned copy is torch's own: it is kept until the device has read it, so that `host` may
    change at once.
    """
    if device.type != "cuda":
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)
