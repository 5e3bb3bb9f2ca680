"""Context plan: from options, a model and the free memory to a context that fits."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import replace

from edge.device.cpu_load import num_usable_cores
from edge.llama.context import ContextParams
from edge.llama.fit import ContextFit, DoesNotFit, choose, measure
from edge.llama.kv_types import F16, CacheShape
from edge.llama.library import llama
from edge.llama.native_handles import Model
from edge.llama.options import LlamaOptions
from offload.errors import SettingsError

NUM_OUTPUTS = 16  # rows of logits from one decode: one, and drafted tokens to verify
# On a CPU, attention without flash is quicker over plain values (benchmarks/edge_reading.py), and
# takes room for the scores of a batch; in a short context neither way matters.
LONG_TOKENS = 1024
SCORES_BYTES = 256 << 20
LEAST_BATCH = 64
ROUND_TO = 256  # tokens, as llama.cpp rounds what attention reads
TIGHT = 0.5  # share of the free memory below which a bound is good enough


def plan(model: Model, options: LlamaOptions, free_bytes: int) -> ContextParams:
    """Return the context to make.

    Raises SettingsError for a context longer than the model was trained for, and DoesNotFit
    where the memory does not hold the model.
    """
    length = asked_len(model, options)
    if not options.check_memory:
        free_bytes = 1 << 62
    bound = functools.partial(bound_compute_bytes, model, options)
    with contextlib.suppress(DoesNotFit):
        fit = _fit(model, options, length, free_bytes, bound)
        held = _shape(model, options).cache_bytes(fit.kv_types, fit.num_tokens)
        spare = TIGHT * free_bytes - (model.size_bytes + held + bound(fit.num_tokens))
        if spare > 0:
            return _params(_attending(model, options, fit, spare), fit)
    # Near the limit a bound is too coarse; asking llama.cpp takes as long as loading the words.
    compute_bytes = functools.cache(lambda n: _measured_compute_bytes(model, options, n))
    return _params(options, _fit(model, options, length, free_bytes, compute_bytes))


def plan_for(model: Model, options: LlamaOptions, free_bytes: int, needed: int) -> ContextParams:
    """Return a context of the tokens that are needed, 0 for as many as plan() would take.

    Errors as plan(), which also says what is made where it would be shorter than needed.
    """
    length = -(-needed // ROUND_TO) * ROUND_TO
    if 0 < length < (asked_len(model, options) or model.trained_len):
        with contextlib.suppress(DoesNotFit):
            return plan(model, replace(options, max_model_len=length), free_bytes)
    return plan(model, options, free_bytes)


def _measured_compute_bytes(model: Model, options: LlamaOptions, num_tokens: int) -> int:
    fit = ContextFit(num_tokens=num_tokens, kv_types=F16)
    return measure(model.path, _params(options, fit)).compute_bytes


def _attending(
    model: Model, options: LlamaOptions, fit: ContextFit, spare_bytes: float
) -> LlamaOptions:
    """Return the options with flash attention settled, and the batch that its absence allows.

    Small batches cost little: q8_0 was read 8% more slowly in those of 64 than in those of 512.
    """
    on_gpu = options.num_gpu_layers != 0 and llama().llama_supports_gpu_offload()
    needed = fit.kv_types.values_need_flash or on_gpu or fit.num_tokens < LONG_TOKENS
    if options.flash_attention is not None or needed:
        return options
    size = options.max_num_batched_tokens
    while size >= min(LEAST_BATCH, options.max_num_batched_tokens):
        narrow = replace(options, max_num_batched_tokens=size)
        without = replace(narrow, flash_attention=False)
        scores = bound_compute_bytes(model, without, fit.num_tokens)
        scores -= bound_compute_bytes(model, narrow, fit.num_tokens)
        if scores <= min(SCORES_BYTES, spare_bytes):
            return without
        size //= 2
    return options


def asked_len(model: Model, options: LlamaOptions) -> int:
    """Return the tokens of context that the options ask for, 0 where they leave it open.

    Raises SettingsError for more than the model was trained for.
    """
    trained, requested = model.trained_len, options.max_model_len
    if requested > trained:
        raise SettingsError(
            f"max_model_len is {requested} and {model.path.name} was trained for {trained}; "
            f"set it to {trained} or less"
        )
    if options.window:
        return min(requested or trained, options.num_sinks + options.window)
    return requested


def _fit(
    model: Model,
    options: LlamaOptions,
    length: int,
    free_bytes: int,
    compute_bytes: Callable[[int], int],
) -> ContextFit:
    return choose(
        model.path.name,
        _shape(model, options),
        weights_bytes=model.size_bytes,
        compute_bytes=compute_bytes,
        free_bytes=free_bytes,
        trained_len=model.trained_len,
        asked_len=length,
        kv_cache_dtype=options.kv_cache_dtype,
        sliding=options.window != 0,
    )


def _shape(model: Model, options: LlamaOptions) -> CacheShape:
    """Return the shape of all sequences together."""
    shape = CacheShape.of(model)
    return replace(shape, num_kv_heads=shape.num_kv_heads * options.max_num_seqs)


def _params(options: LlamaOptions, fit: ContextFit) -> ContextParams:
    return ContextParams(
        num_tokens=fit.num_tokens,
        num_threads=options.num_threads or num_usable_cores(),
        num_seqs=options.max_num_seqs,
        # Beside a whole prompt batch there is room for one token of each other answer.
        batch_size=min(options.max_num_batched_tokens, fit.num_tokens) + _others(options),
        kv_types=fit.kv_types,
        flash_attention=options.flash_attention is not False,
        num_outputs=max(NUM_OUTPUTS, options.max_num_seqs),
    )


def _others(options: LlamaOptions) -> int:
    return options.max_num_seqs if options.max_num_seqs > 1 else 0


def bound_compute_bytes(model: Model, options: LlamaOptions, num_tokens: int) -> int:
    """Return at least what the buffers of one batch take, from the shape alone.

    Rows of float32: a few of the hidden size, two of the feed-forward size, the mask, and the
    logits of the outputs; without flash attention also the scores of each head.
    """
    hidden = max(model.numbers("embedding_length"), default=0)
    inner = max([hidden, *model.numbers("feed_forward_length")])
    heads = 0
    if options.flash_attention is False:
        heads = max(model.numbers("attention.head_count"), default=1)
    row = 8 * hidden + 2 * inner + (2 + 2 * heads) * num_tokens
    logits = max(NUM_OUTPUTS, options.max_num_seqs) * model.vocabulary.num_tokens
    return 4 * (row * (options.max_num_batched_tokens + options.max_num_seqs) + 2 * logits)
