"""Loading of a model: network, KV cache, scheduler and runner, from a folder and options."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from backbone.attention import causal_attention
from backbone.config import NetworkConfig
from backbone.cpu_network import CpuNetwork, fits_cpu_network
from backbone.errors import MissingExtra
from backbone.fused_network import FusedNetwork
from backbone.network import Network
from backbone.process_limits import cpu_quota
from backbone.rotary import inverse_frequencies
from backbone.tensor_shard import TensorShard
from backbone.terminal_text import readable
from backbone.tokenizer import Tokenizer
from engine.torch.attention import attention_backend
from engine.torch.kv.blocks import BlockPool
from engine.torch.kv.kv_cache import KVCache, block_bytes, num_blocks_for, span_of
from engine.torch.kv_store import PagedStore
from engine.torch.memory import require_memory, run_largest_step
from engine.torch.options import EngineOptions
from engine.torch.process_memory import return_large_pieces, trim_heap
from engine.torch.runner import Runner, on_device
from engine.torch.scheduler import Scheduler
from engine.torch.step import build_batch
from engine.torch.tensor_parallel import Group, Rendezvous, with_sums
from offload.errors import SettingsError
from offload.messages import ModelCard
from quantize.loading import has_coded_layers, read_network
from quantize.model_files import ModelFiles, model_files, tokenizer_of

if TYPE_CHECKING:
    from engine.torch.cuda_graphs import DecodeGraphs  # brings Triton

_log = logging.getLogger(__name__)
_SHORT_DTYPES = {torch.bfloat16: "bf16", torch.float16: "f16", torch.float32: "f32"}


@dataclass(frozen=True)
class LoadedModel:
    """The parts of a loaded model that an engine runs."""

    card: ModelCard
    tokenizer: Tokenizer
    vocab_size: int
    kv_bytes: int  # of the whole cache; on a CPU they become resident as it fills
    cache: KVCache
    scheduler: Scheduler
    runner: Runner


def load_model(
    folder: Path,
    options: EngineOptions,
    rendezvous: Rendezvous | None = None,
    *,
    on_loaded: Callable[[], None] = lambda: None,
) -> LoadedModel:
    """Read the folder and lay out its memory. Raises CheckpointError or SettingsError.

    With a `rendezvous`, this process has a share of the model and waits there for the others, once
    its weights are read and `loaded` has been called.
    """
    options = options.for_process(rendezvous.rank if rendezvous else 0)
    with on_device(options.torch_device()):
        return _load(folder, options, rendezvous, on_loaded)


def _load(
    folder: Path,
    options: EngineOptions,
    rendezvous: Rendezvous | None,
    on_loaded: Callable[[], None],
) -> LoadedModel:
    device, dtype = options.torch_device(), options.torch_dtype()
    if device.type == "cpu":
        return_large_pieces()
        _keep_to_quota()
    share = TensorShard(rendezvous.rank, rendezvous.size) if rendezvous else TensorShard()
    files = model_files(folder)
    require_memory(files, options)
    network = read_network(files, device=device, dtype=dtype, share=share)
    network.config = options.as_run(network.config)
    network.inverse = inverse_frequencies(network.config).to(device)
    tokenizer = tokenizer_of(files, options.tokenizer_folder(), network.config)
    max_model_len = options.model_len(network.config)
    card = _card(files, network, max_model_len, tokenizer)
    config = network.config
    on_loaded()
    group = Group(rendezvous, device) if rendezvous else None
    runnable = as_runnable(network, options, max_model_len, group)
    trim_heap()  # what fusing has freed
    if device.type == "cuda":
        run_largest_step(runnable, options, max_model_len, causal_attention(config))
        # Steps that only decode go through a mixture of experts in another way.
        decode = replace(options, max_num_batched_tokens=options.max_num_seqs)
        run_largest_step(runnable, decode, max_model_len, causal_attention(config))
    cache = _cache(config, options, max_model_len, group)
    attention = attention_backend(options.attention_backend, config, cache, options.torch_dtype())
    graphs = None
    if options.records_graphs:
        graphs = decode_graphs(runnable, cache, options.max_num_seqs, max_model_len)
    lay_out = partial(build_batch, block_size=options.block_size, device=device)
    runner = Runner(runnable, attention, lay_out, graphs, group)
    if device.type == "cuda":
        runner.warm_up(cache)
    return LoadedModel(
        card=card,
        tokenizer=tokenizer,
        vocab_size=config.vocab_size,
        kv_bytes=cache.num_blocks * block_bytes(config, options.block_size, options.cache_dtype()),
        cache=cache,
        scheduler=_scheduler(config, cache, options),
        runner=runner,
    )


def _keep_to_quota() -> None:
    """Take no more threads than the process's cgroups grant: they would wait for each other."""
    quota = cpu_quota()
    if quota is not None and quota < torch.get_num_threads():
        torch.set_num_threads(max(1, math.ceil(quota)))


def run_torchrun_worker(folder: Path, options: EngineOptions) -> None:
    """Compute a share of a model whose engine runs in the first process, until that is closed.

    For every process of a torchrun but the first; see EngineOptions.tensor_parallel_size.
    """
    rendezvous = Rendezvous.by_torchrun(options.tensor_parallel_size)
    if rendezvous is None:
        raise SettingsError("this process was not started by torchrun; open a CloudEngine instead")
    load_model(folder, options, rendezvous).runner.run_worker()


def as_runnable(
    network: Network, options: EngineOptions, max_model_len: int, group: Group | None
) -> Network | FusedNetwork:
    """Return the network as the engine runs it."""
    all_reduce = group.all_reduce if group else None
    if has_coded_layers(network):
        # Each is a product of its own: nothing is there to be fused.
        return with_sums(network, all_reduce) if all_reduce else network
    if not options.fuses:
        return network
    if fits_cpu_network(network.config, options.torch_device(), options.torch_dtype()):
        most = options.max_num_seqs
        return CpuNetwork(network, max_model_len, all_reduce=all_reduce, num_rows=most)
    return FusedNetwork(
        network,
        max_model_len,
        all_reduce=all_reduce,
        # A CPU has no queue that a question would hold up.
        unasked_rows=0 if options.torch_device().type == "cpu" else options.max_num_seqs,
    )


def _cache(
    config: NetworkConfig, options: EngineOptions, max_model_len: int, group: Group | None
) -> KVCache:
    device, dtype = options.torch_device(), options.cache_dtype()
    num_blocks = options.num_gpu_blocks_override or num_blocks_for(
        config,
        device=device,
        dtype=dtype,
        block_size=options.block_size,
        max_model_len=max_model_len,
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.step_tokens(),
        gpu_memory_utilization=options.gpu_memory_utilization,
    )
    if group is not None:
        num_blocks = group.minimum(num_blocks)
    span = span_of(config, options.block_size)
    least = span.most_at_once(max_model_len, options.step_tokens())
    if num_blocks < least:
        raise SettingsError(
            f"num_gpu_blocks_override is {num_blocks} blocks of {options.block_size} tokens, less "
            f"than the {least} that one sequence of max_model_len={max_model_len} holds at once; "
            "raise it or lower max_model_len"
        )
    _log.info("KV cache: %d blocks of %d tokens", num_blocks, options.block_size)
    return KVCache(config, num_blocks, options.block_size, device=device, dtype=dtype)


def decode_graphs(
    network: Network | FusedNetwork, cache: KVCache, max_num_seqs: int, max_model_len: int
) -> DecodeGraphs:
    """Record the decode steps of up to so many answers on the current GPU. Raises MissingExtra."""
    try:
        from engine.torch.cuda_graphs import DecodeGraphs, cuda_capture, graph_sizes
    except ModuleNotFoundError as missing:
        raise MissingExtra(missing.name or "triton", "cloud") from None
    sizes = graph_sizes(max_num_seqs)
    with torch.inference_mode():
        return DecodeGraphs(
            network, cache, sizes, max_model_len=max_model_len, capture=cuda_capture()
        )


def _scheduler(config: NetworkConfig, cache: KVCache, options: EngineOptions) -> Scheduler:
    return Scheduler(
        PagedStore(
            BlockPool(cache.num_blocks, enable_prefix_caching=options.enable_prefix_caching),
            span_of(config, cache.block_size),
        ),
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.step_tokens(),
        short_first_s=options.short_first_s,
        target_step_s=options.target_step_s,
        batch_tokens_beside_readers=options.batch_tokens_beside_readers,
    )


def _card(
    files: ModelFiles, network: Network, max_model_len: int, tokenizer: Tokenizer
) -> ModelCard:
    dtype = network.embed_tokens.weight.dtype
    with torch.device("meta"):  # the whole, where this process has a share
        weights = list(Network(files.network_config()).parameters())
    num_parameters = sum(weight.numel() for weight in weights)  # a shared head counts once
    coded = bool(files.quantization_config())
    named = files.quantization_name() if coded or files.path.is_file() else _SHORT_DTYPES[dtype]
    return ModelCard(
        name=readable(files.path.resolve().name),
        architecture=network.config.model_type,
        runtime="torch",
        num_parameters=num_parameters,
        quantization=named,
        size_bytes=files.weight_bytes(dtype) if coded else num_parameters * dtype.itemsize,
        max_model_len=max_model_len,
        chat=tokenizer.chat_template is not None,
        vocab_size=tokenizer.max_token_id + 1,
    )
