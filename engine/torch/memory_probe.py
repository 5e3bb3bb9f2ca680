"""The memory probe: measures what the largest steps take, `python -m engine.torch.memory_probe`.

They are run by a process of their own on one layer of every kind, with weights that nobody has
written. What is then added to what is resident is what a step takes, with all that kernels hold for
themselves inside; more layers would not add to it. The first line of the process's input says what
to run, as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from backbone.config import NetworkConfig
from backbone.network import Network
from backbone.sampling import Sampler, SamplingValues
from engine.torch.attention import attention_backend
from engine.torch.kv.kv_cache import KVCache
from engine.torch.loading import as_runnable
from engine.torch.options import EngineOptions
from engine.torch.process_memory import resident_bytes, return_large_pieces, trim_heap, watch_memory
from engine.torch.runner import Runner
from engine.torch.sequence import Sequence as Tokens
from engine.torch.step import Slice, build_batch
from quantize.model_files import model_files

_PROMPTS_AT_ONCE = (1, 3, 8)  # pieces of other sizes are laid out otherwise on the heap
_SMALL = 1 << 18  # numbers; weights below are filled, so that no step computes with rubbish


def measure(config: NetworkConfig, options: EngineOptions) -> int:
    """Return what the largest steps add to the resident memory of this process, in bytes.

    To be called in a process that has computed nothing with torch yet but a small product.
    """
    return_large_pieces()
    max_model_len = options.model_len(config)
    config = one_of_each(config)
    network = as_runnable(_empty_network(config, options), options, max_model_len, None)
    num_blocks = -(-max_model_len // options.block_size)
    cache = KVCache(
        config,
        num_blocks,
        options.block_size,
        device=torch.device("cpu"),
        dtype=options.cache_dtype(),
    )
    attention = attention_backend(options.attention_backend, config, cache, options.torch_dtype())
    lay_out = partial(build_batch, block_size=options.block_size, device=torch.device("cpu"))
    runner = Runner(network, attention, lay_out)
    trim_heap()
    before = resident_bytes()
    # As the engine does, in a thread that the C library gives a heap of its own.
    with watch_memory() as seen, ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(_run, runner, options, max_model_len).result()
    return max(seen) - before


def _run(runner: Runner, options: EngineOptions, max_model_len: int) -> None:
    for slices in _largest_steps(options, max_model_len):
        runner.step(slices)


def _largest_steps(options: EngineOptions, max_model_len: int) -> Iterator[Sequence[Slice]]:
    """Yield the last pieces of prompts as long as the context, and a token of every answer."""
    budget, seqs = options.step_tokens(), options.max_num_seqs
    longest = max(1, max_model_len - 1)
    for num_rows in _PROMPTS_AT_ONCE:
        # The first token is known, so that no prompt is read by the kernel for whole prompts.
        piece = max(1, min(budget // num_rows, longest - 1))
        count = max(1, min(seqs, budget // piece))
        # A step may hold something of the one before it: the last piece but one comes first.
        for end in (max(piece, longest - piece), longest):
            yield _pieces(end, piece, count, options.block_size)
    yield _pieces(longest, 1, min(seqs, budget), options.block_size)


def _pieces(end: int, num_tokens: int, count: int, block_size: int) -> list[Slice]:
    """Return the tokens before `end` of so many sequences, which share their blocks."""
    ends = [_at_the_end(end, num_tokens, block_size) for _ in range(count)]
    return [Slice(sequence, num_tokens) for sequence in ends]


def _at_the_end(num_tokens: int, num_pending: int, block_size: int) -> Tokens:
    sampler = Sampler(SamplingValues(), seed=0)
    sequence = Tokens([0] * num_tokens, max_tokens=2, sampler=sampler)
    sequence.num_computed = num_tokens - num_pending
    sequence.blocks = list(range(-(-num_tokens // block_size)))
    return sequence


def one_of_each(config: NetworkConfig) -> NetworkConfig:
    """Return a network of the first layer of every kind: what differs is seen in a step's peak."""
    kinds: dict[tuple[int | None, int, bool], int] = {}
    for layer in range(config.num_hidden_layers):
        kind = (config.window(layer), config.rope_base(layer), config.has_experts(layer))
        kinds.setdefault(kind, layer)
    kept = list(kinds.values())
    return replace(
        config,
        num_hidden_layers=len(kept),
        full_layers=frozenset(i for i, layer in enumerate(kept) if layer in config.full_layers),
        dense_layers=frozenset(i for i, layer in enumerate(kept) if layer in config.dense_layers),
    )


def _empty_network(config: NetworkConfig, options: EngineOptions) -> Network:
    with torch.device("meta"):
        network = Network(config).to(options.torch_dtype()).requires_grad_(False)
        network.inverse = network.inverse.float()
    network.to_empty(device="cpu")
    for weight in (network.inverse, *network.parameters()):
        if weight.numel() < _SMALL:
            weight.zero_()
    return network


def main() -> None:
    """Measure what the input asks for, and print it as JSON."""
    job = json.loads(sys.stdin.readline())
    torch.set_num_threads(job["num_threads"])
    options = EngineOptions(**job["options"])
    config = options.as_run(model_files(Path(job["folder"])).network_config())
    with torch.inference_mode():
        torch.randn(64, 64) @ torch.randn(64, 64)  # what the libraries keep for themselves
        print(json.dumps({"bytes": measure(config, options)}))


if __name__ == "__main__":
    main()
