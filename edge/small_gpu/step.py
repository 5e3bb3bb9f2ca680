"""Step of the network for several answers at once, and the tokens chosen from its logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backbone.attention import Attend
from backbone.cpu_network import CpuNetwork, fits_cpu_network
from backbone.fast_tensor_ops import to_device
from backbone.network import Network
from backbone.sampling import Ranked, Sampler, choose, confidence, likeliest
from edge.device.governor import ThreadTuner
from edge.small_gpu.ring_cache import Ring
from engine.prompt_lookup import PromptLookup
from offload.messages import Confidence
from quantize.loading import has_coded_layers


@dataclass(frozen=True, kw_only=True)
class LogitsRow:
    """Logits row: a token of a sampler is wanted, or how likely a given one was."""

    sampler: Sampler | None = None
    given: int = 0
    num_alternatives: int = 0


@dataclass(frozen=True)
class SampledToken:
    """Sampled token of a row, its confidence, and the likeliest ones with their nats."""

    token: int
    confidence: Confidence
    alternatives: Ranked = ()

    @property
    def is_number(self) -> bool:
        """Whether the network's arithmetic held."""
        return math.isfinite(self.confidence.entropy)


def find(logits: Tensor, rows: Sequence[LogitsRow]) -> list[SampledToken]:
    """Return what was wanted of each row of float32 logits [rows, vocab]."""
    given = torch.tensor([row.given for row in rows], dtype=torch.int64)
    tokens = to_device(given, logits.device)
    choosing = [i for i, row in enumerate(rows) if row.sampler is not None]
    samplers = [row.sampler for row in rows if row.sampler is not None]
    if len(choosing) == len(rows):
        tokens = choose(logits, samplers)
    elif choosing:
        at = to_device(torch.tensor(choosing), logits.device)
        tokens[at] = choose(logits[at], samplers)
    # One copy to the host for both; float32 would not hold every token id.
    sure = confidence(logits, tokens).double()
    found = torch.cat((tokens.unsqueeze(-1).double(), sure), -1).tolist()
    ranked = likeliest(logits, [row.num_alternatives for row in rows])
    return [
        SampledToken(int(token), Confidence(*values), others)
        for (token, *values), others in zip(found, ranked, strict=True)
    ]


def lookup_for(sampler: Sampler, prompt: Sequence[int], max_draft: int) -> PromptLookup | None:
    """Return what drafts an answer, where it may have drafts."""
    return PromptLookup(prompt, max_draft=max_draft) if max_draft and sampler.takes_drafts else None


@dataclass(frozen=True, kw_only=True)
class StepPart:
    """Step part of one answer: tokens for its ring, and what to find behind the last."""

    ring: Ring
    tokens: Sequence[int]
    rows: Sequence[LogitsRow] = ()


class Step:
    """Step of the network over parts side by side; rings hold it once they are told to advance."""

    def __init__(self, network: Network | CpuNetwork) -> None:
        self._network = network
        self._device = network.inverse.device

    @torch.inference_mode()
    def __call__(self, parts: Sequence[StepPart]) -> list[list[SampledToken]]:
        """Return what was found in the rows of each part."""
        tokens = [token for part in parts for token in part.tokens]
        ids = to_device(torch.tensor(tokens), self._device)
        # Position 0 for all: the rings rotate, see there.
        hidden = self._network(ids, torch.zeros_like(ids), _attend_apart(parts))
        rows = [row for part in parts for row in part.rows]
        if not rows:
            return [[] for _ in parts]
        places = to_device(torch.tensor(_row_places(parts)), self._device)
        found = iter(find(self._network.logits(hidden[places]), rows))
        return [[next(found) for _ in part.rows] for part in parts]


def laid_out(network: Network, num_answers: int) -> Network | CpuNetwork:
    """Return the network as its steps are computed: on a CPU, plain weights are packed.

    Not where one answer at a time is written in float32: eight rows take half the time of weights
    as they lie, but one row takes up to half more. The network may be taken apart for it. Either
    hands over keys before their rotation, see Ring.
    """
    weight = network.embed_tokens.weight
    pays = num_answers > 1 or weight.dtype != torch.float32
    if (
        pays
        and not has_coded_layers(network)
        and fits_cpu_network(network.config, weight.device, weight.dtype)
    ):
        return CpuNetwork(network, 0)
    return network


def _attend_apart(parts: Sequence[StepPart]) -> Attend:
    """Return attention in which each part sees its own ring and nothing of the others."""
    sizes = [len(part.tokens) for part in parts]

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shares = zip(parts, *(torch.split(each, sizes) for each in (q, k, v)), strict=True)
        return torch.cat([part.ring.attend(layer, *share) for part, *share in shares])

    return attend


def _row_places(parts: Sequence[StepPart]) -> list[int]:
    """Return where the tokens whose logits are wanted stand among those of all parts."""
    places: list[int] = []
    stop = 0
    for part in parts:
        stop += len(part.tokens)
        places += range(stop - len(part.rows), stop)
    return places


Stepping = Callable[[Sequence[StepPart]], list[list[SampledToken]]]


class TorchThreads:
    """Torch's threads in the thread that computes; at first those that torch has."""

    def __init__(self) -> None:
        self._decode = self._prefill = torch.get_num_threads()

    def set_threads(self, decode: int, prefill: int) -> None:
        """Take the threads for the steps of an answer, and for those of a prompt."""
        self._decode, self._prefill = decode, prefill

    def use(self, *, plain: bool) -> None:
        """Let torch compute the next step with them."""
        wanted = self._decode if plain else self._prefill
        if torch.get_num_threads() != wanted:
            torch.set_num_threads(wanted)


class GovernedStep:
    """Governed step: computed with the threads that a tuner sets, in the engine's thread."""

    def __init__(
        self,
        step: Stepping,
        *,
        threads: TorchThreads | None = None,
        tuner_of: Callable[[TorchThreads], ThreadTuner] = ThreadTuner,
    ) -> None:
        self.step = step
        self._threads = threads or TorchThreads()
        self._tuner = tuner_of(self._threads)

    def __call__(self, parts: Sequence[StepPart]) -> list[list[SampledToken]]:
        """Return what the step finds in the rows of each part."""
        plain = all(len(part.tokens) == 1 for part in parts)
        if not plain:
            self._tuner.before_prompt()
        self._threads.use(plain=plain)
        with self._tuner.step(plain=plain, num_answers=len(parts)):
            return self.step(parts)


def governed(step: Stepping, device: torch.device, num_threads: int) -> Stepping:
    """Return the step under a governor where torch computes on the CPU and no number is fixed."""
    return GovernedStep(step) if device.type == "cpu" and num_threads == 0 else step
