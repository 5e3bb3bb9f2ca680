"""Swap probe: how far one swapped matrix moves a model's predictions; one block in memory.

What each block is fed, and what the whole model predicts, is worked out once and kept in temporary
files. A swap then runs only the blocks from the swapped matrix on, each read when its turn comes.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear, log_softmax

from backbone.attention import causal_attention, soft_capped
from backbone.network import DecoderLayer, Network, embedded
from backbone.rotary import cos_sin
from quantize.block_stream import BlockStream, place
from quantize.calibration import CalibrationOptions, windows_of

_IN_BLOCK = re.compile(r"layers\.(\d+)\.(.+)")


class SwapProbe:
    """A folder's predictions in full precision, and how far a swap moves them.

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

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every matrix, under the network's own names."""
        with torch.device("meta"):
            network = Network(self._stream.config)
        return {n: tuple(p.shape) for n, p in network.named_parameters() if p.ndim == 2}

    @torch.no_grad()
    def kld_with(self, name: str, values: NDArray[np.float32]) -> float:
        """Return the mean KL divergence with one matrix replaced, in nats per position."""
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
