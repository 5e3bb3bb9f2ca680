"""Linear layers whose weights stay in 4 or 8 bits: the plain ones, which everything else is
measured by, decode the matrix at each call.
"""

from __future__ import annotations

from math import gcd

import torch
from torch import Tensor, nn
from torch.nn import functional

from quantize.gptq import QuantizedMatrix


class CodedLinear(nn.Module):
    """Coded linear layer: it can give its weight in float32; `forward` multiplies by just that."""

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

    def rows(self, part: slice) -> CodedLinear:
        """Return a layer of some of the outputs."""
        raise NotImplementedError

    def columns(self, part: slice, *, with_bias: bool) -> CodedLinear:
        """Return a layer of some of the inputs: one of several summands."""
        raise NotImplementedError

    def _bias_rows(self, part: slice) -> Tensor | None:
        return None if self.bias is None else self.bias[part]

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight_float().to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return functional.linear(x, weight, bias)


class GptqLinear(CodedLinear):
    """GPTQ linear layer, 4 or 8 bits: groups of inputs share a scale and a zero point."""

    packed: Tensor  # uint8 [out, in], two codes a byte where there are four bits
    scales: Tensor  # float16 [groups, out]
    zeros: Tensor  # int16 [groups, out]
    group_of: Tensor  # int32 [in]

    def __init__(self, matrix: QuantizedMatrix, *, bits: int, bias: Tensor | None = None) -> None:
        """Take a matrix [out, in] of 4 or 8 bit codes."""
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

    def rows(self, part: slice) -> GptqLinear:
        """See CodedLinear."""
        matrix = self._matrix(self.codes()[part], self.scales[:, part], self.zeros[:, part])
        return GptqLinear(matrix, bits=self.bits, bias=self._bias_rows(part))

    def columns(self, part: slice, *, with_bias: bool) -> GptqLinear:
        """See CodedLinear."""
        group_of = self.group_of[part]
        # Groups that lie elsewhere are left out, or the quick product would not fit.
        kept, numbered = torch.unique(group_of, return_inverse=True)
        matrix = self._matrix(
            self.codes()[:, part], self.scales[kept], self.zeros[kept], numbered.int()
        )
        return GptqLinear(matrix, bits=self.bits, bias=self.bias if with_bias else None)

    def _matrix(
        self, codes: Tensor, scales: Tensor, zeros: Tensor, group_of: Tensor | None = None
    ) -> QuantizedMatrix:
        return QuantizedMatrix(
            codes=codes,
            scales=scales.float(),
            zeros=zeros.int(),
            group_of=self.group_of if group_of is None else group_of,
            error=0.0,
            damping=0.0,
            num_dead=0,
        )

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

    def rows(self, part: slice) -> Int8Linear:
        """See CodedLinear."""
        scales = self.scales[part] * 127
        return Int8Linear(self.integers[part], scales, bias=self._bias_rows(part))

    def columns(self, part: slice, *, with_bias: bool) -> Int8Linear:
        """See CodedLinear."""
        bias = self.bias if with_bias else None
        return Int8Linear(self.integers[:, part], self.scales * 127, bias=bias)

    def weight_float(self) -> Tensor:
        """Return the weight, float32 [out, in]."""
        return self.integers.float() * self.scales.unsqueeze(1)


class TableLinear(CodedLinear):
    """bitsandbytes' NF4 and FP4 layer: four bits look a value up, blocks share its scale
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

    def rows(self, part: slice) -> TableLinear:
        """See CodedLinear."""
        every = torch.arange(self._shape[0])[part]
        return self._cut(every, torch.arange(self._shape[1]), self._bias_rows(part))

    def columns(self, part: slice, *, with_bias: bool) -> TableLinear:
        """See CodedLinear."""
        every = torch.arange(self._shape[1])[part]
        bias = self.bias if with_bias else None
        return self._cut(torch.arange(self._shape[0]), every, bias)

    def _cut(self, rows: Tensor, columns: Tensor, bias: Tensor | None) -> TableLinear:
        """Return some rows and columns, in the largest blocks that each lie within one of ours."""
        size = self._shape[0] * self._shape[1] // len(self.scales)
        # Where a cut runs through a block, both sides get its scale.
        smaller = gcd(size, self._shape[1], len(columns), int(columns[0]))
        places = (rows.unsqueeze(1) * self._shape[1] + columns).flatten()
        codes = self._codes()[places]
        return TableLinear(
            codes[::2] << 4 | codes[1::2],
            self.table,
            self.scales[places[::smaller] // size],
            shape=(len(rows), len(columns)),
            bias=bias,
        )

    def _codes(self) -> Tensor:
        return torch.stack((self.packed >> 4, self.packed & 15), -1).flatten()

    def weight_float(self) -> Tensor:
        """Return the weight, float32 [out, in]."""
        values = self.table[self._codes().int()]
        blocks = values.reshape(self.scales.shape[0], -1) * self.scales.unsqueeze(1)
        return blocks.reshape(self._shape)
