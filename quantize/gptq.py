"""The GPTQ solver: round a matrix column by column, spreading each error over those to come.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", arXiv 2210.17323; order by activation and groups as in its reference code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from backbone.errors import CheckpointError, NearfarError
from quantize.gptq_range import Range, choose_scale

_BLOCK_INPUTS = 128  # rounded before the rest of the matrix is updated
_SPAN_INPUTS = 32  # rounded before the rest of their block is
_LEAF_INPUTS = 256  # of a triangular matrix, inverted directly
_MAX_DAMPING = 1.0
_LEAST_GROUP = 16  # inputs; smaller ones cost more bits than they save


@dataclass(frozen=True, kw_only=True)
class GptqOptions:
    """GPTQ options: 4 or 8 bits, one scale per `group_size` inputs (-1: per row)."""

    bits: int = 4
    group_size: int = 128
    sym: bool = True
    desc_act: bool = False
    # Share of the mean diagonal that is added to the Hessian. The usual 0.01 fits the calibration
    # text too closely: on other text 0.2 loses less, whether that is like it or not.
    damping: float = 0.2
    search_range: bool = True  # choose each group's range by its weighted error
    checkpoint_format: str = "gptq"  # "gptq_v2" stores zero points as they are
    true_sequential: bool = True  # look at a matrix's inputs after those before it are rounded

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise NearfarError(f"bits={self.bits} cannot be stored in a GPTQ file; use 4 or 8")
        if self.checkpoint_format not in ("gptq", "gptq_v2"):
            raise NearfarError("checkpoint_format must be gptq (version 1) or gptq_v2")
        if self.group_size != -1 and self.group_size < 1:
            raise NearfarError("group_size must be at least 1, or -1 for one scale per row")
        if not 0 < self.damping <= _MAX_DAMPING:
            raise NearfarError(f"damping={self.damping} must lie between 0 and 1")

    @property
    def max_code(self) -> int:
        """Return the largest integer that a weight can become."""
        return (1 << self.bits) - 1

    def fitting(self, widths: Iterable[int]) -> GptqOptions:
        """Return the options with the largest group size that divides every row of `widths`.

        It divides what was asked for, so that a kernel for that one takes it too. Raises
        NearfarError where that would be less than `_LEAST_GROUP`.
        """
        if self.group_size == -1:
            return self
        size = math.gcd(self.group_size, *widths)
        if size < min(self.group_size, _LEAST_GROUP):
            raise NearfarError(
                f"no group size from {_LEAST_GROUP} to {self.group_size} divides every matrix of "
                "this model; use --group-size -1"
            )
        return replace(self, group_size=size)

    def num_groups(self, num_inputs: int) -> int:
        """Return how many groups a row has. Raises NearfarError where they do not come out even."""
        if self.group_size == -1:
            return 1
        if num_inputs % self.group_size:
            raise NearfarError(
                f"group_size={self.group_size} does not divide {num_inputs} inputs; "
                "use a power of two that does, or -1"
            )
        return num_inputs // self.group_size


@dataclass(frozen=True, kw_only=True)
class QuantizedMatrix:
    """Quantized matrix: weight[o, i] = scales[g, o] * (codes[o, i] - zeros[g, o]).

    `g` is `group_of[i]`. `error` is the relative squared error of the matrix's output on the
    calibration text, `damping` the share that was needed, `num_dead` the silent columns.
    """

    codes: Tensor  # uint8 [out, in]
    scales: Tensor  # float32 [groups, out], rounded to what float16 holds
    zeros: Tensor  # int32 [groups, out]
    group_of: Tensor  # int32 [in]
    error: float
    damping: float
    num_dead: int

    def dequantized(self) -> Tensor:
        """Return the matrix as float32 [out, in]."""
        group = self.group_of.long()
        shifted = self.codes.float() - self.zeros[group].T.float()
        return self.scales[group].T * shifted


def quantize_matrix(weight: Tensor, moment: Tensor, options: GptqOptions) -> QuantizedMatrix:
    """Quantize float32 [out, in] given the second moment [in, in] of its inputs.

    Raises CheckpointError where the moment is not finite, NearfarError for a group size that
    does not divide the inputs.
    """
    options.num_groups(weight.shape[1])  # refuses what does not divide
    if not torch.isfinite(moment).all():
        raise CheckpointError(
            "the inputs of a matrix overflow on the calibration text; check the model's weights"
        )
    order = _order(moment, options)
    hessian = moment[order][:, order] if options.desc_act else moment.clone()
    upper, damping, num_dead = _inverse_factor(hessian, options.damping)
    del hessian
    solver = _Solver(weight.T[order], moment.diagonal()[order], upper, options)
    solver.solve()
    back = torch.argsort(order)
    found = QuantizedMatrix(
        codes=solver.codes[back].T.contiguous(),
        scales=solver.scales,
        zeros=solver.zeros.int(),
        group_of=solver.group_of[back].int(),
        error=0.0,
        damping=damping,
        num_dead=num_dead,
    )
    error = output_error(weight, found.dequantized(), moment)
    return QuantizedMatrix(**{**vars(found), "error": error})


def output_error(weight: Tensor, approximation: Tensor, moment: Tensor) -> float:
    """Return E|Wx - W'x|^2 / E|Wx|^2 for inputs of that second moment."""
    difference = weight - approximation
    wrong = ((difference @ moment) * difference).sum()
    whole = ((weight @ moment) * weight).sum()
    return float(wrong / whole.clamp_min(1e-30))


def _order(moment: Tensor, options: GptqOptions) -> Tensor:
    if options.desc_act:
        return torch.argsort(moment.diagonal(), descending=True, stable=True)
    return torch.arange(moment.shape[0], device=moment.device)


def _inverse_factor(hessian: Tensor, damping: float) -> tuple[Tensor, float, int]:
    """Return the upper Cholesky factor of the inverse, the damping it took, and silent columns.

    Uses the Hessian up: at the largest sizes another copy would be most of the memory needed.
    """
    diagonal = hessian.diagonal()
    dead = diagonal <= 0
    # A column that is never fed costs nothing, so it needs no share of another's error.
    diagonal[dead] = diagonal[~dead].mean() if (~dead).any() else 1.0
    undamped = diagonal.clone()
    mean = float(diagonal.mean())
    while damping <= _MAX_DAMPING:
        diagonal.copy_(undamped + damping * mean)
        upper = _inverted(hessian)
        if upper is not None:
            return upper, damping, int(dead.sum())
        damping *= 10
    raise CheckpointError(
        "the calibration text leaves the Hessian singular at any damping; give a longer text"
    )


def _inverted(hessian: Tensor) -> Tensor | None:
    """Return the upper Cholesky factor of the inverse, or None where the Hessian is singular."""
    # Factored from its end, H = R RT with R above the diagonal; then inverse(H) = UT U, U being
    # inverse(R): half the work of inverting H and factoring that.
    lower, failed = torch.linalg.cholesky_ex(hessian.flip(0, 1))
    if failed:
        return None
    upper = lower.flip(0, 1)
    del lower
    _invert_upper(upper)
    return upper if bool(torch.isfinite(upper).all()) else None


def _invert_upper(matrix: Tensor) -> None:
    """Replace an upper triangular matrix by its inverse, half by half."""
    size = len(matrix)
    if size <= _LEAF_INPUTS:
        unit = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
        matrix.copy_(torch.linalg.solve_triangular(matrix, unit, upper=True))
        return
    half = size // 2
    first, beside, second = matrix[:half, :half], matrix[:half, half:], matrix[half:, half:]
    _invert_upper(first)
    _invert_upper(second)
    beside.copy_(-(first @ (beside @ second)))


class _Solver:
    """Solver of one matrix, its inputs already in the order in which they are rounded.

    Everything lies as [in, out] here: what is rounded at once is then one piece of memory.
    """

    def __init__(
        self,
        weight: Tensor,
        mean_square: Tensor,
        upper: Tensor,
        options: GptqOptions,
    ) -> None:
        self.weight = weight
        self.mean_square = mean_square
        self.upper = upper
        self.options = options
        self.range = Range(max_code=options.max_code, sym=options.sym, search=options.search_range)
        num_inputs, num_outputs = weight.shape
        self.group_size = num_inputs if options.group_size == -1 else options.group_size
        num_groups, device = options.num_groups(num_inputs), weight.device
        # Groups follow the order of rounding; group_of tells each input's.
        self.group_of = torch.arange(num_inputs, device=device) // self.group_size
        self.codes = torch.empty(num_inputs, num_outputs, dtype=torch.uint8, device=device)
        self.scales = torch.empty(num_groups, num_outputs, device=device)
        self.zeros = torch.empty(num_groups, num_outputs, device=device)

    def solve(self) -> None:
        """Fill codes [in, out], and scales and zeros [groups, out]."""
        num_inputs = len(self.weight)
        for start in range(0, num_inputs, _BLOCK_INPUTS):
            stop = min(start + _BLOCK_INPUTS, num_inputs)
            errors = self._round_block(start, stop)
            self.weight[stop:].addmm_(self.upper[start:stop, stop:].T, errors, alpha=-1)

    def _round_block(self, start: int, stop: int) -> Tensor:
        """Round inputs [start, stop) and return their scaled errors [stop - start, out]."""
        errors = torch.empty(stop - start, self.weight.shape[1], device=self.weight.device)
        for first, last in self._spans(start, stop):
            if first % self.group_size == 0:
                self._choose_range(first, stop, self.upper[start:first, stop:], errors)
            group = first // self.group_size
            self._round_span(first, last, group, errors[first - start : last - start])
            factors = self.upper[first:last, last:stop].T
            self.weight[last:stop].addmm_(factors, errors[first - start : last - start], alpha=-1)
        return errors

    def _spans(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield short runs of inputs of one group each."""
        while start < stop:
            end = (start // self.group_size + 1) * self.group_size
            last = min(start + _SPAN_INPUTS, end, stop)
            yield start, last
            start = last

    def _round_span(self, first: int, last: int, group: int, errors: Tensor) -> None:
        scale, zero = self.scales[group], self.zeros[group]
        lowest, highest = -zero, self.options.max_code - zero
        upper = self.upper[first:last, first:last]
        pivots = upper.diagonal().tolist()
        for i, row in enumerate(self.weight[first:last]):
            code = (row / scale).round_().clamp_(lowest, highest)
            torch.addcmul(row, scale, code, value=-1, out=errors[i]).div_(pivots[i])
            self.codes[first + i] = code.add_(zero)
            # The inputs behind it take over what it got wrong.
            self.weight[first + i + 1 : last].addr_(upper[i, i + 1 :], errors[i], alpha=-1)

    def _choose_range(self, first: int, stop: int, upper: Tensor, errors: Tensor) -> None:
        end = min(first + self.group_size, len(self.weight))
        values = self.weight[first:end]
        if end > stop:
            # Errors of this block have not reached the inputs behind it yet.
            values = values.clone()
            pending = upper[:, : end - stop].T @ errors[: len(upper)]
            values[stop - first :] -= pending
        scale, zero = choose_scale(values, self.mean_square[first:end], self.range)
        group = first // self.group_size
        self.scales[group], self.zeros[group] = scale, zero
