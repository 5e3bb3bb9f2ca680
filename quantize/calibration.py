"""Calibration pass: text through a network, block by block, observing each matrix's inputs.

The second moment of a matrix's inputs, E[x xT], is the Hessian of GPTQ (up to a factor that
cancels); its diagonal, the mean squared input per column, is llama.cpp's importance matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from backbone.attention import causal_attention
from backbone.errors import NearfarError
from backbone.network import DecoderLayer
from backbone.rotary import cos_sin
from backbone.tokenizer import Tokenizer
from quantize.block_stream import BlockStream
from quantize.kept_inputs import KeptInputs

# The matrices that share an input; the first one of each group is watched.
INPUT_GROUPS: dict[str, tuple[str, ...]] = {
    "self_attn.q_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attn.o_proj": ("self_attn.o_proj",),
    "mlp.gate_proj": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down_proj": ("mlp.down_proj",),
}
LINEARS = tuple(name for group in INPUT_GROUPS.values() for name in group)
Progress = Callable[[int, int], None]  # (blocks done, blocks in all)
_LAST = "mlp.down_proj"
_BATCH_TOKENS = 2048
_PANEL_INPUTS = 384  # rows of a second moment that are computed at once


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """Calibration options: windows of `window_len` tokens, drawn with `seed` from the text."""

    num_windows: int = 64
    window_len: int = 512
    seed: int = 0
    parse_special: bool = False  # whether "<|end|>" in the text is the token or seven characters

    def __post_init__(self) -> None:
        if self.num_windows < 1 or self.window_len < 2:
            raise NearfarError("calibration needs at least 1 window of at least 2 tokens")


class Moments:
    """Moments of one matrix's inputs: the second moment, [in, in], or only its diagonal, [in]."""

    def __init__(self, size: int, *, full: bool, device: str) -> None:
        shape = (size, size) if full else (size,)
        # The mean so far rather than the sum: it is used without one more matrix beside it.
        self._mean = torch.zeros(shape, dtype=torch.float32, device=device)
        self._full = full
        self.count = 0

    def add(self, inputs: Tensor) -> None:
        """Take the inputs [..., in] of one batch."""
        rows = inputs.reshape(-1, inputs.shape[-1]).float()
        total = self.count + rows.shape[0]
        if self._full:
            # It is symmetric: what lies below the diagonal need not be computed.
            for first in range(0, rows.shape[1], _PANEL_INPUTS):
                some, rest = rows[:, first : first + _PANEL_INPUTS], rows[:, first:]
                panel = self._mean[first : first + _PANEL_INPUTS, first:]
                panel.addmm_(some.T, rest, beta=self.count / total, alpha=1 / total)
        else:
            self._mean.mul_(self.count / total).add_(rows.square().sum(0), alpha=1 / total)
        self.count = total

    @property
    def mean(self) -> Tensor:
        """Return E[x xT], float32 [in, in], or E[x^2], [in]; its memory stays this object's."""
        if self._full:
            for last in range(_PANEL_INPUTS, len(self._mean), _PANEL_INPUTS):
                panel = slice(last - _PANEL_INPUTS, last)
                self._mean[last:, panel] = self._mean[panel, last:].T
        return self._mean

    @property
    def mean_square(self) -> Tensor:
        """Return E[x^2] per column, float32 [in]."""
        return self._mean.diagonal() if self._full else self._mean


Visit = Callable[[int, DecoderLayer], None]


def windows_of(folder: Path, text: str, options: CalibrationOptions, max_len: int) -> Tensor:
    """Return token ids int64 [num_windows, window_len], cut at random places of the text.

    Raises NearfarError where the text is shorter than one window.
    """
    ids = encode(folder, text, parse_special=options.parse_special)
    tokens = torch.tensor(ids, dtype=torch.int64)
    length = min(options.window_len, max_len)
    if len(tokens) < length:
        raise NearfarError(
            f"the calibration text has {len(tokens)} tokens, fewer than one window of {length}; "
            "give a longer text or a smaller window"
        )
    generator = torch.Generator().manual_seed(options.seed)
    starts = torch.randint(len(tokens) - length + 1, (options.num_windows,), generator=generator)
    return torch.stack([tokens[start : start + length] for start in starts.tolist()])


def encode(folder: Path, text: str, *, parse_special: bool) -> list[int]:
    """Return the ids of a text; control tokens spelled in it are tokens only where asked."""
    if not parse_special:
        return Tokenizer(folder).encode_text(text)
    Tokenizer(folder)  # says what is wrong with a folder
    from tokenizers import Tokenizer as Encoder

    ids: list[int] = Encoder.from_file(str(folder / "tokenizer.json")).encode(text).ids
    return ids


class Walk:
    """Walk of the calibration text's hidden states up the blocks, one after the other."""

    def __init__(self, stream: BlockStream, windows: Tensor, *, full: bool) -> None:
        self.stream = stream
        self.full = full
        self.layer = 0
        self.hidden = stream.embed(windows)  # [num_windows, window_len, hidden_size]
        positions = torch.arange(windows.shape[1], device=stream.device)
        self._rotations = cos_sin(stream.inverse, positions)
        self._attend = causal_attention(stream.config)
        self._advanced = self._attended = False
        self._kept: KeptInputs | None = None  # of the block's last matrix

    def steps(self, visit: Visit) -> Iterator[int]:
        """Go through the remaining blocks; yield the number of blocks done after each.

        `visit` may watch the block's inputs and change its weights; the states then move on.
        """
        while self.layer < self.stream.config.num_hidden_layers:
            block = self.stream.block(self.layer)
            self._advanced = self._attended = False
            visit(self.layer, block)
            if self._kept:
                self._advance_from_kept(block)
            elif not self._advanced:
                self._run(block, advance=True)
            self.layer += 1
            yield self.layer

    def watch(
        self, block: DecoderLayer, names: Iterable[str] = INPUT_GROUPS, *, advance: bool = False
    ) -> dict[str, Moments]:
        """Return the moments of the named matrices' inputs; `advance` moves the states as well.

        Advance only where the block will not change any more: it saves one more run of it.
        """
        found = {
            name: Moments(
                block.get_submodule(name).in_features,  # type: ignore[arg-type]
                full=self.full,
                device=self.stream.device,
            )
            for name in names
        }
        with watched(block, found, leave=not advance):
            self._run(block, advance=advance)
        return found

    def pass_attention(self, block: DecoderLayer) -> None:
        """Move the states past the block's attention, which will not change any more."""
        for part in self._batches():
            self.hidden[part] = block.attended(self.hidden[part], *self._rotation(), self._attend)
        self._attended = True

    def watch_last(self, block: DecoderLayer) -> Moments:
        """Return the moments of the inputs of `down_proj`, which alone may change from here on.

        The inputs are kept: the states move on by one product, and not by the whole feed-forward.
        """
        assert self._attended, "the attention may still change"
        self._kept = kept = KeptInputs()
        layer = block.get_submodule(_LAST)
        handle = layer.register_forward_pre_hook(lambda module, inputs: kept.add(inputs[0]))
        try:
            return self.watch(block, [_LAST])[_LAST]
        finally:
            handle.remove()

    def _advance_from_kept(self, block: DecoderLayer) -> None:
        assert self._kept, "nothing was kept"
        down = block.get_submodule(_LAST)
        for part, inputs in zip(self._batches(), self._kept.batches(), strict=True):
            made = down(inputs.to(self.stream.device))
            self.hidden[part] = block.with_feed(self.hidden[part], made)
        self._kept.close()
        self._kept = None

    def final_moments(self) -> Moments:
        """Return the moments of the head's input, after the last block."""
        assert self.layer == self.stream.config.num_hidden_layers, "blocks are left"
        size = self.stream.config.hidden_size
        moments = Moments(size, full=self.full, device=self.stream.device)
        norm = self.stream.norm()
        for part in self._batches():
            moments.add(norm(self.hidden[part]))
        return moments

    def _run(self, block: DecoderLayer, *, advance: bool) -> None:
        for part in self._batches():
            with suppress(_Seen):
                out = self._forward(block, self.hidden[part])
                if advance:
                    self.hidden[part] = out
        self._advanced = advance

    def _forward(self, block: DecoderLayer, hidden: Tensor) -> Tensor:
        if not self._attended:
            hidden = block.attended(hidden, *self._rotation(), self._attend)
        return block.fed(hidden)

    def _rotation(self) -> tuple[Tensor, Tensor]:
        return self._rotations[self.stream.config.rope_base(self.layer)]

    def _batches(self) -> Iterator[slice]:
        size = max(1, _BATCH_TOKENS // self.hidden.shape[1])
        for start in range(0, self.hidden.shape[0], size):
            yield slice(start, start + size)


class _Seen(Exception):
    """The last watched matrix has its inputs: the rest of the block need not be computed."""


@contextmanager
def watched(block: DecoderLayer, found: dict[str, Moments], *, leave: bool) -> Iterator[None]:
    """Add to the moments of the named matrices while the block runs; `leave` it after the last."""
    last = [name for name in INPUT_GROUPS if name in found][-1]

    def hook_for(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found[name].add(inputs[0])
            if leave and name == last:
                raise _Seen

        return hook

    handles = [
        block.get_submodule(name).register_forward_pre_hook(hook_for(name)) for name in found
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def longest_window(stream: BlockStream) -> int:
    """Return how many tokens one window may have: plain causal attention must be exact in it."""
    longest = stream.config.max_position_embeddings
    return min(longest, stream.config.sliding_window or longest)
