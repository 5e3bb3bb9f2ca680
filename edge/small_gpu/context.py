"""A network and what it has read: tokens in, the logits after the last of them out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from backbone.errors import CheckpointError
from backbone.network import Network
from edge.small_gpu.options import TorchOptions
from edge.small_gpu.ring import Ring


class Context:
    """One conversation at a time; what the next prompt shares with it is not read again."""

    def __init__(self, network: Network, options: TorchOptions, *, max_model_len: int) -> None:
        self._network = network
        self.sliding = options.window != 0
        self.limit = max_model_len
        if options.window:
            self.limit = min(max_model_len, options.window + options.num_sinks)
        weight = network.embed_tokens.weight
        self._device = weight.device
        # Small contexts are cut into small pieces, or one eviction would empty them.
        self.ring = Ring(
            network.config,
            limit=self.limit,
            bits=options.kv_bits,
            block=min(options.kv_block, _power_of_two(self.limit // 8)),
            residual=min(options.kv_residual, self.limit // 4),
            num_sinks=min(options.num_sinks, self.limit // 8) if self.sliding else 0,
            chunk=min(options.max_num_batched_tokens, self.limit // 4),
            device=self._device,
            dtype=weight.dtype,
        )
        self._stream: list[int] = []  # all that was read, the dropped tokens too

    @property
    def is_full(self) -> bool:
        """Whether no token fits without another having to go."""
        return self.ring.used >= self.limit

    def read(self, prompt: Sequence[int]) -> Iterator[Tensor]:
        """Read a prompt chunk by chunk; yield the logits after each, float32 [1, vocab]."""
        at = self._reuse(prompt)
        while at < len(prompt):
            chunk = prompt[at : at + self.ring.chunk]
            yield self.step(chunk)
            at += len(chunk)

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Read at most a chunk of tokens; return the logits after the last, float32 [1, vocab].

        Raises CheckpointError where the network's output is no number.
        """
        if self.sliding:
            self.ring.make_room(len(tokens))
        ids = torch.tensor(list(tokens), device=self._device)
        # Position 0 for all: the ring rotates, see there.
        hidden = self._network(ids, torch.zeros_like(ids), self.ring.attend)
        self.ring.advance(len(tokens))
        self._stream += tokens
        logits = self._network.logits(hidden[-1:])
        if not bool(torch.isfinite(logits).all()):
            self.clear()
            raise CheckpointError(
                "the model's output is no number; its weights are damaged, or overflow in this "
                "precision: set dtype to float32 or bfloat16"
            )
        return logits

    def clear(self) -> None:
        """Forget all."""
        self.ring.clear()
        self._stream.clear()

    def _reuse(self, prompt: Sequence[int]) -> int:
        """Go back to what the prompt shares with the stream; return how many tokens that is."""
        shared = 0
        # The last token is always read, since its logits are needed.
        for old, new in zip(self._stream, prompt[:-1], strict=False):
            if old != new:
                break
            shared += 1
        extra = len(self._stream) - shared
        if not shared or not self.ring.rewind(extra):
            self.clear()
            return 0
        del self._stream[shared:]
        return shared


def _power_of_two(limit: int) -> int:
    return int(1 << (max(limit, 8).bit_length() - 1))
