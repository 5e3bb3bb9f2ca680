"""Linear layers whose weights stay in 4 or 8 bits: the plain ones, which everything else is
measured by, decode the matrix at each call.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from quantize.gptq import QuantizedMatrix


class CodedLinear(nn.Module):
    """A linear layer that can say its weight in float32; `forward` multiplies by just that."""

    bias: Tensor | None

    def __init__(self, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("bias", bias)

    @property
    def shape(self) -> tuple[int, int]:
        """Return the size of the weight, [out, in]."""
        raise NotImplementedError

    def weight_float(self) -> Tensor:
        """Return the weight, float32 [out, in]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight_float().to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return functional.linear(x, weight, bias)


class GptqLinear(CodedLinear):
    """GPTQ's 4 or 8 bits: groups of inputs share a scale and a zero point."""

    packed: Tensor  # uint8 [out, in], two codes a byte where there are four bits
    scales: Tensor  # float16 [groups, out]
    zeros: Tensor  # int16 [groups, out]
    group_of: Tensor  # int32 [in]

    def __init__(self, matrix: QuantizedMatrix, *, bits: int, bias: Tensor | None = None) -> None:
        super().__init__(bias)
        self.bits = bits
        codes = matrix.codes
        if bits == 4:
            codes = codes[:, ::2] | codes[:, 1::2] << 4
        self.register_buffer("packed", codes.contiguous())
        self.register_buffer("scales", matrix.scales.half())
        self.register_buffer("zeros", matrix.zeros.to(torch.int16))
        self.register_buffer("group_of", matrix.group_of.int())

    @property
    def shape(self) -> tuple[int, int]:
        """Return the size of the weight, [out, in]."""
        return self.packed.shape[0], self.group_of.shape[0]

    def codes(self) -> Tensor:
        """Return the integers, uint8 [out, in]."""
        packed = self.packed
        if self.bits == 8:
            return packed
        return torch.stack((packed & 15, packed >> 4), -1).flatten(-2)

    def weight_float(self) -> Tensor:
        """Return the weight, float32 [out, in]."""
        group = self.group_of.long()
        zeros = self.zeros[group].T.float()
        return self.scales[group].T.float() * (self.codes().float() - zeros)


class Int8Linear(CodedLinear):
    """bitsandbytes' LLM.int8 as a weight format: one scale a row (arXiv 2208.07339).

    Its split of outlier inputs, which only speeds a GPU up, is left out.
    """

    integers: Tensor  # int8 [out, in]
    scales: Tensor  # float32 [out]

    def __init__(self, weight: Tensor, row_max: Tensor, *, bias: Tensor | None = None) -> None:
        """Take int8 [out, in], and the largest magnitude of each row, float32 [out]."""
        super().__init__(bias)
        self.register_buffer("integers", weight.contiguous())
        self.register_buffer("scales", row_max.float() / 127)

    @property
    def shape(self) -> tuple[int, int]:
        """Return the size of the weight, [out, in]."""
        return self.integers.shape[0], self.integers.shape[1]

    def weight_float(self) -> Tensor:
        """Return the weight, float32 [out, in]."""
        return self.integers.float() * self.scales.unsqueeze(1)


class TableLinear(CodedLinear):
    """bitsandbytes' NF4 and FP4: four bits look a value up, blocks share its scale
    (QLoRA, arXiv 2305.14314).
    """

    packed: Tensor
    table: Tensor
    scales: Tensor

    def __init__(
        self,
        packed: Tensor,
        table: Tensor,
        scales: Tensor,
        *,
        shape: tuple[int, int],
        bias: Tensor | None = None,
    ) -> None:
        """Take two codes a byte, the first in the high half, and a scale per block of weights."""
        super().__init__(bias)
        self._shape = shape
        self.register_buffer("packed", packed.flatten())
        self.register_buffer("table", table.float())
        self.register_buffer("scales", scales.float())

    @property
    def shape(self) -> tuple[int, int]:
        """Return the size of the weight, [out, in]."""
        return self._shape

    def weight_float(self) -> Tensor:
        """Return the weight, float32 [out, in]."""
        codes = torch.stack((self.packed >> 4, self.packed & 15), -1).flatten()
        values = self.table[codes.int()]
        blocks = values.reshape(self.scales.shape[0], -1) * self.scales.unsqueeze(1)
        return blocks.reshape(self._shape)
