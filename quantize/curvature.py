"""Curvature of a model's predictions: how far a small error of each matrix moves them.

To second order the KL divergence is half the error's square, weighed by the Fisher information
(Amari, "Natural gradient works efficiently in learning", 1998). One pass backwards gives its
diagonal for every matrix, from tokens drawn from the model's own predictions and summed over a
window before it is squared, since an error is the same at every token; of that only the sums over
rows and over columns are kept. Beside it the divergence can be taken by swapping a matrix in
(benchmarks/quantize_sensitivity.json). One block is in memory at a time: what each block is fed,
and what the whole model predicts, is worked out once and kept in temporary files.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear, log_softmax

from backbone.attention import causal_attention, soft_capped
from backbone.network import DecoderLayer, Network, embedded
from backbone.rotary import cos_sin
from quantize.block_stream import MODEL_PREFIX, BlockStream, place
from quantize.calibration import CalibrationOptions, windows_of

_IN_BLOCK = re.compile(r"layers\.(\d+)\.(.+)")
_SEED = 5  # of the tokens that are drawn from the model's own predictions


@dataclass(frozen=True)
class Curvature:
    """Curvature of the predictions along one matrix: `rows` float32 [out], `columns` [in]."""

    rows: Tensor
    columns: Tensor

    @classmethod
    def of(cls, rows: Tensor, columns: Tensor, num_positions: int) -> Curvature:
        """Return it from the sums over all rows and all columns of the Fisher information."""
        total = rows.sum().clamp_min(torch.finfo(torch.float32).tiny)
        return cls(rows / num_positions, columns / total)

    def divergence(self, error: Tensor) -> float:
        """Return the KL divergence, nats per position, that an error [out, in] is worth."""
        return 0.5 * float(self.rows @ (error.square() @ self.columns))


class CurvatureProbe:
    """Curvature probe of a folder, which it runs in full precision.

    Needs about the head and one block in float32; the temporary files take 4 bytes for each
    position of the text times (hidden_size * (layers + 1) + vocab_size).
    """

    def __init__(self, source: Path, text: str, options: CalibrationOptions) -> None:
        self._stream = BlockStream(source)
        config = self._stream.config
        longest = min(config.max_position_embeddings, config.sliding_window or 1 << 30)
        self._windows = windows_of(source, text, options, longest)
        self._rotations = cos_sin(self._stream.inverse, torch.arange(self._windows.shape[1]))
        self._attend = causal_attention(config)
        self._norm, self._head = self._stream.norm(), self._stream.head()
        num_layers, shape = config.num_hidden_layers, tuple(self._windows.shape)
        self._fed = _on_disk((num_layers + 1, *shape, config.hidden_size))
        self._reference = _on_disk((*shape, config.vocab_size))
        with torch.no_grad():
            self._look()

    def error(self, name: str, values: NDArray[np.float32]) -> Tensor:
        """Return what a matrix, under the network's own name, differs by from the folder's."""
        in_folder = name if name == "lm_head.weight" else MODEL_PREFIX + name
        original = self._stream.read(in_folder, values.shape)
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)) - original

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every matrix, under the network's own names."""
        with torch.device("meta"):
            network = Network(self._stream.config)
        return {n: tuple(p.shape) for n, p in network.named_parameters() if p.ndim == 2}

    @torch.no_grad()
    def kld_with(self, name: str, values: NDArray[np.float32]) -> float:
        """Return the mean KL divergence with one matrix swapped, in nats per position."""
        swapped = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
        config, head = self._stream.config, self._head
        inside = _IN_BLOCK.fullmatch(name)
        start = int(inside[1]) if inside else 0
        if name == "lm_head.weight":
            start, head = config.num_hidden_layers, swapped
        hidden = torch.from_numpy(self._fed[start].copy())  # [windows, len, hidden_size]
        if name == "embed_tokens.weight":
            hidden = embedded(swapped[self._windows], config)
            head = swapped if config.tie_word_embeddings else head
        for layer in range(start, config.num_hidden_layers):
            block = self._stream.block(layer)
            if inside and layer == start:
                place(block, inside[2], swapped)
            hidden = self._through(block, layer, hidden)
        return self._kld(hidden, head)

    def curvatures(self) -> dict[str, tuple[Curvature, ...]]:
        """Return those of every matrix, by its name; a tied embedding has one of each use."""
        config, tokens = self._stream.config, self._windows
        gradient, head = self._of_head()
        found: dict[str, tuple[Curvature, ...]] = {}
        for layer in reversed(range(config.num_hidden_layers)):
            found |= self._of_block(layer, gradient)
        rows, square = torch.zeros(config.vocab_size), (gradient * config.embedding_scale).square()
        rows.index_add_(0, tokens.reshape(-1), square.sum(-1).reshape(-1))
        fed = Curvature.of(rows, square.sum((0, 1)), tokens.numel())
        if config.tie_word_embeddings:
            return found | {"embed_tokens.weight": (fed, head)}
        return found | {"embed_tokens.weight": (fed,), "lm_head.weight": (head,)}

    def _of_head(self) -> tuple[Tensor, Curvature]:
        """Return the gradient by what the head is fed, [windows, len, hidden_size], and its own."""
        config, generator = self._stream.config, torch.Generator().manual_seed(_SEED)
        gradient = torch.empty(self._fed.shape[1:])
        rows, columns = torch.zeros(config.vocab_size), torch.zeros(config.hidden_size)
        for number, kept in enumerate(self._reference):
            hidden = torch.from_numpy(self._fed[-1, number].copy()).requires_grad_()
            normed = self._norm(hidden)
            logits = linear(normed, self._head)
            drawn = torch.multinomial(torch.from_numpy(kept.copy()).exp(), 1, generator=generator)
            logits.retain_grad()
            likely = log_softmax(soft_capped(logits, config.final_logit_softcapping), -1)
            likely.gather(-1, drawn).sum().backward()  # type: ignore[no-untyped-call]
            assert hidden.grad is not None and logits.grad is not None, "both were asked for"
            gradient[number] = hidden.grad
            outward, inward = logits.grad.square(), normed.detach().square()
            rows += inward.sum(-1) @ outward
            columns += outward.sum(-1) @ inward
        return gradient, Curvature.of(rows, columns, self._windows.numel())

    def _of_block(self, layer: int, gradient: Tensor) -> dict[str, tuple[Curvature, ...]]:
        """Return those of a block's matrices; `gradient` becomes that of what it is fed."""
        block = self._stream.block(layer)
        matrices = {n: p.requires_grad_() for n, p in block.named_parameters() if p.ndim == 2}
        sums = {n: [torch.zeros(size) for size in p.shape] for n, p in matrices.items()}
        rotation = self._rotations[self._stream.config.rope_base(layer)]
        for number, outward in enumerate(gradient):
            hidden = torch.from_numpy(self._fed[layer, number].copy()).unsqueeze(0).requires_grad_()
            block(hidden, *rotation, self._attend).backward(outward.unsqueeze(0))
            assert hidden.grad is not None, "it was asked for"
            gradient[number] = hidden.grad[0]
            for name, matrix in matrices.items():
                if matrix.grad is not None:  # an expert may see no token
                    square = matrix.grad.square()
                    sums[name][0] += square.sum(1)
                    sums[name][1] += square.sum(0)
                    matrix.grad = None
        count = self._windows.numel()
        return {
            f"layers.{layer}.{name}": (Curvature.of(rows, columns, count),)
            for name, (rows, columns) in sums.items()
        }

    def _look(self) -> None:
        """Run the whole model once, and keep what each block is fed and what is predicted."""
        hidden = self._stream.embed(self._windows)
        for layer in range(self._stream.config.num_hidden_layers):
            self._fed[layer] = hidden.numpy()
            hidden = self._through(self._stream.block(layer), layer, hidden)
        self._fed[-1] = hidden.numpy()
        for kept, window in zip(self._reference, hidden, strict=True):
            kept[:] = self._predicted(window, self._head).numpy()

    def _through(self, block: DecoderLayer, layer: int, hidden: Tensor) -> Tensor:
        rotation = self._rotations[self._stream.config.rope_base(layer)]
        windows = [block(window.unsqueeze(0), *rotation, self._attend) for window in hidden]
        return torch.cat(windows)

    def _predicted(self, hidden: Tensor, head: Tensor) -> Tensor:
        """Return log-probabilities [len, vocab_size]."""
        logits = linear(self._norm(hidden), head)
        return log_softmax(soft_capped(logits, self._stream.config.final_logit_softcapping), -1)

    def _kld(self, hidden: Tensor, head: Tensor) -> float:
        total = 0.0
        for kept, window in zip(self._reference, hidden, strict=True):
            p, q = torch.from_numpy(kept.copy()), self._predicted(window, head)
            # float64: the best types differ in the seventh digit
            total += float((p.exp().double() * (p.double() - q.double())).sum())
        return max(total / self._windows.numel(), 0.0)


def _on_disk(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return an array that the system may put aside: it lies in a file that ends with it."""
    with tempfile.TemporaryFile(prefix="nearfar-plan-") as file:
        return np.memmap(file, dtype=np.float32, mode="w+", shape=shape)
