"""Step timing: a piece of a model's network, run by an engine's own runner on fixed steps.

The piece has random weights and as many layers as the processor's caches cannot hold, so that it is
read from memory as the whole is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from backbone.attention import causal_attention
from backbone.config import NetworkConfig
from backbone.network import Network
from backbone.rotary import inverse_frequencies
from backbone.sampling import Sampler, SamplingValues
from engine.torch.attention import attention_backend
from engine.torch.kv.kv_cache import KVCache
from engine.torch.loading import as_runnable, decode_graphs
from engine.torch.options import EngineOptions
from engine.torch.runner import Runner
from engine.torch.sequence import Sequence as Tokens
from engine.torch.step import Slice, build_batch

BATCHES, CONTEXTS = (1, 8, 64), (64, 512)
_SAMPLE_BYTES = 128 << 20  # of layers in float32; more than a core's caches hold
_LEAST_ROWS = 256  # of the vocabulary
_TURNS = 5
_STEPS = 4  # of a turn
_PROMPT = 32  # tokens whose logits are compared


@dataclass(frozen=True)
class StepKind:
    """A decode step of `batch` answers, each with `context` tokens."""

    batch: int
    context: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.context}"


def step_kinds(max_num_seqs: int) -> tuple[StepKind, ...]:
    """Return the kinds of steps that an engine of so many answers at once may run."""
    batches = [batch for batch in BATCHES if batch <= max_num_seqs]
    return tuple(StepKind(batch, context) for batch in batches for context in CONTEXTS)


def sample_config(config: NetworkConfig) -> NetworkConfig:
    """Return the shape of the piece: the model's first layers, and as large a share of its rows
    of the vocabulary.
    """
    per_layer = config.hidden_size * (3 * config.intermediate_size + 4 * config.hidden_size)
    count = max(2, -(-_SAMPLE_BYTES // (4 * per_layer)))
    layers = range(min(count, config.num_hidden_layers))
    num_rows = -(-config.vocab_size * len(layers) // config.num_hidden_layers)
    return replace(
        config,
        num_hidden_layers=len(layers),
        vocab_size=min(config.vocab_size, max(_LEAST_ROWS, num_rows)),
        full_layers=config.full_layers & set(layers),
        dense_layers=config.dense_layers & set(layers),
    )


class SampleWeights:
    """The piece's weights in float32; each way that is tried gets a copy in its own type."""

    def __init__(self, config: NetworkConfig, device: torch.device) -> None:
        self._config = config
        generator = torch.Generator(device).manual_seed(0)
        with torch.device("meta"):
            network = Network(config)
        self._weights = {
            name: _random(parameter.shape, name, generator, device)
            for name, parameter in network.named_parameters()
        }

    def network(self, dtype: torch.dtype) -> Network:
        """Return a network of the weights, its own to take apart."""
        with torch.device("meta"):
            network = Network(self._config)
        given = {name: w.to(dtype, copy=True) for name, w in self._weights.items()}
        network.load_state_dict(given, strict=False, assign=True)
        if self._config.tie_word_embeddings:
            network.lm_head.weight = network.embed_tokens.weight
        device = network.embed_tokens.weight.device
        network.inverse = inverse_frequencies(self._config).to(device)
        return network.eval().requires_grad_(False)


def _random(
    shape: torch.Size, name: str, generator: torch.Generator, device: torch.device
) -> Tensor:
    if name.endswith("norm.weight"):
        return torch.ones(shape, device=device)
    # Rows whose products keep the size of what goes in.
    return torch.randn(shape, generator=generator, device=device).mul_(shape[-1] ** -0.5)


class TimedWay:
    """One way to run the piece: its logits of a prompt, and the seconds of a step of each kind."""

    def __init__(
        self, weights: SampleWeights, config: NetworkConfig, options: EngineOptions
    ) -> None:
        max_len = max(CONTEXTS) + 1
        network = as_runnable(weights.network(options.torch_dtype()), options, max_len, None)
        self._block_size = options.block_size
        # All answers share the same blocks: what is read is as much, and there is room for it.
        cache = KVCache(
            config,
            -(-max_len // options.block_size),
            options.block_size,
            device=options.torch_device(),
            dtype=options.cache_dtype(),
        )
        attention = attention_backend(
            options.attention_backend, config, cache, options.torch_dtype()
        )
        lay_out = partial(build_batch, block_size=options.block_size, device=options.torch_device())
        graphs = None
        if options.records_graphs:
            graphs = decode_graphs(network, cache, max(BATCHES), max_len)
        self._runner = Runner(network, attention, lay_out, graphs)
        self._overlaps = options.overlaps
        self._clock = _clock(options.torch_device())
        # Of a GPU several: what is planned meanwhile is hidden only behind another step.
        self._num_steps = 1 if options.torch_device().type == "cpu" else _STEPS

    def logits(self) -> Tensor:
        """Return the float32 logits of the last token of a fixed prompt, [1, vocab]."""
        with torch.inference_mode():
            return self._runner.last_logits([self._slice(_PROMPT, _PROMPT)])

    def seconds(self, kind: StepKind) -> float:
        """Return how long one step takes."""
        slices = [self._slice(kind.context + 1, 1) for _ in range(kind.batch)]
        began_s, flight = self._clock(), None
        for _ in range(self._num_steps):
            if not self._overlaps:
                self._runner.step(slices)
                continue
            before, flight = flight, self._runner.launch(slices)
            if before is not None:
                before.results()
        if flight is not None:
            flight.results()
        return (self._clock() - began_s) / self._num_steps

    def _slice(self, num_tokens: int, num_new: int) -> Slice:
        tokens = [1 + at % 97 for at in range(num_tokens)]
        sequence = Tokens(tokens, max_tokens=2, sampler=Sampler(SamplingValues(), seed=0))
        sequence.num_computed = num_tokens - num_new
        sequence.blocks = list(range(-(-num_tokens // self._block_size)))
        return Slice(sequence, num_new)


def _clock(device: torch.device) -> Callable[[], float]:
    """Return what tells the seconds of a step: a CPU's are its thread's own, whoever else runs."""
    if device.type == "cpu":
        return time.thread_time

    def now_s() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return now_s


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on a CPU with one thread: it waits for no other, so that its own time is all."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def reference_logits(weights: SampleWeights, config: NetworkConfig) -> Tensor:
    """Return what the plain network in float32 says of the prompt that every way is given."""
    network = weights.network(torch.float32)
    device = network.embed_tokens.weight.device
    tokens = torch.tensor([1 + at % 97 for at in range(_PROMPT)], device=device)
    with torch.inference_mode():
        positions = torch.arange(_PROMPT, device=device)
        hidden = network(tokens, positions, causal_attention(config))
        found: Tensor = network.logits(hidden[-1:])
        return found


@dataclass
class TimingBudget:
    """Timing budget: seconds that measuring may still take; compiling does not count."""

    left_s: float


def in_turns(
    ways: Sequence[TimedWay], kinds: Sequence[StepKind], budget: TimingBudget
) -> Iterator[tuple[StepKind, list[float]]]:
    """Yield for each kind the least seconds of each way, measured turn by turn.

    A first turn is not counted: in it kernels are compiled and memory is laid out. Ends before a
    kind for which the budget leaves no time.
    """
    for kind in kinds:
        if budget.left_s <= 0:
            return
        for way in ways:
            way.seconds(kind)
        least = [float("inf")] * len(ways)
        for turn in range(_TURNS):
            if turn and budget.left_s <= 0:
                break
            began_s = time.monotonic()
            for at, way in enumerate(ways):
                least[at] = min(least[at], way.seconds(kind))
            budget.left_s -= time.monotonic() - began_s
        yield kind, least
