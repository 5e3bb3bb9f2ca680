"""Fast linear layers: packed integer products, used only where they prove to be the same.

torch's kernels for them have private names and no promise, so every layer that uses one was
compared with its plain self when it was loaded; any doubt or error leaves the plain one in place.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from quantize.quantized_linear import CodedLinear, GptqLinear, Int8Linear

GROUP_SIZES = (32, 64, 128, 256)  # those that the int4 kernel has
_TILE = 16  # rows that it takes at once
_TOLERANCE = 0.02  # relative; bfloat16 alone gives 0.003
_SAMPLE_ROWS = 16
_DEVICES = ("cpu", "cuda")
_ALIGNMENT = 64  # bytes; the int8 kernel ends the process on memory that is aligned to 8


class FastInt4Linear(nn.Module):
    """`_weight_int4pack_mm`, on a CPU or a GPU: bfloat16 inputs, groups with scale and zero."""

    order: Tensor | None
    scales: Tensor
    packed: Tensor
    bias: Tensor | None

    def __init__(self, plain: GptqLinear) -> None:
        super().__init__()
        group_of = plain.group_of.long()
        # Groups must lie side by side: with another order of rounding, the inputs are reordered.
        order = torch.argsort(group_of, stable=True)
        self.group_size = int((group_of == group_of[0]).sum())
        in_order = bool((order[1:] > order[:-1]).all())
        self.register_buffer("order", None if in_order else order)
        scales, zeros = plain.scales.float(), plain.zeros.float()
        # The kernel reads a code c as (c - 8) * scale + shift.
        shifts = scales * (8 - zeros)
        self.register_buffer("scales", torch.stack((scales, shifts), -1).bfloat16().contiguous())
        self._product, packed = _packed_int4(plain.codes()[:, order])
        self.register_buffer("packed", packed)
        self.register_buffer("bias", plain.bias)

    def forward(self, x: Tensor) -> Tensor:
        # A product of a small matrix takes less time than the words around it, so they are few:
        # a module looks its buffers up slowly, and an operator its overloads.
        held = self._buffers
        rows, order = _rows(x), held["order"]
        if order is not None:
            rows = rows[:, order]
        out = self._product(_aligned(rows), held["packed"], self.group_size, held["scales"])
        return _shaped(out, x, held["bias"])


class FastInt8Linear(nn.Module):
    """`_weight_int8pack_mm`: bfloat16 inputs, one scale a row."""

    integers: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, plain: Int8Linear) -> None:
        super().__init__()
        self._product = torch.ops.aten._weight_int8pack_mm.default
        self.register_buffer("integers", _aligned(plain.integers))
        self.register_buffer("scales", plain.scales.bfloat16())
        self.register_buffer("bias", plain.bias)

    def forward(self, x: Tensor) -> Tensor:
        held = self._buffers
        out = self._product(_aligned(_rows(x)), held["integers"], held["scales"])
        return _shaped(out, x, held["bias"])


def _packed_int4(codes: Tensor) -> tuple[Callable[..., Tensor], Tensor]:
    """Return the product of a device, and codes [out, in] as it takes them."""
    aten = torch.ops.aten
    if codes.device.type == "cpu":
        packed = aten._convert_weight_to_int4pack_for_cpu(codes.int().contiguous(), 2)
        return aten._weight_int4pack_mm_for_cpu.default, packed
    pairs = (codes[:, ::2] << 4 | codes[:, 1::2]).contiguous()
    num_tiles = next(n for n in (8, 4, 2) if codes.shape[1] % (_TILE * n) == 0)
    return aten._weight_int4pack_mm.default, aten._convert_weight_to_int4pack(pairs, num_tiles)


def quickest(plain: CodedLinear) -> nn.Module:
    """Return a quick layer that computes the same as `plain` on a sample, or `plain` itself."""
    try:
        fast = _fast(plain)
        if fast is not None and _agrees(fast, plain):
            return fast
    # Kernels without a promise may fail in any way; the plain product is always right.
    except (RuntimeError, AttributeError, NotImplementedError, StopIteration):
        pass
    return plain


def _rows(x: Tensor) -> Tensor:
    """Return the inputs as the kernels take them, bfloat16 [rows, in]."""
    return (x if x.dim() == 2 else x.flatten(0, -2)).bfloat16()


def _shaped(out: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    out = out.to(x.dtype)
    out = out if x.dim() == 2 else out.reshape(*x.shape[:-1], -1)
    return out if bias is None else out + bias.to(x.dtype)


def _aligned(tensor: Tensor) -> Tensor:
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % _ALIGNMENT == 0 else tensor.clone()


def _fast(plain: CodedLinear) -> nn.Module | None:
    if isinstance(plain, Int8Linear):
        return FastInt8Linear(plain) if plain.integers.device.type in _DEVICES else None
    if not isinstance(plain, GptqLinear) or plain.bits != 4:
        return None
    packed, group_of = plain.packed, plain.group_of
    sizes = torch.bincount(group_of.long())
    even = bool((sizes == sizes[0]).all()) and int(sizes[0]) in GROUP_SIZES
    fits = packed.shape[0] % _TILE == 0 and len(group_of) % _TILE == 0
    if packed.device.type not in _DEVICES or not fits or not even:
        return None
    return FastInt4Linear(plain)


def _agrees(fast: nn.Module, plain: CodedLinear) -> bool:
    weight = plain.weight_float()
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(_SAMPLE_ROWS, weight.shape[1], generator=generator).to(weight.device)
    expected = plain(sample)
    difference = float((fast(sample) - expected).norm())
    return difference <= _TOLERANCE * max(float(expected.norm()), 1e-12)
