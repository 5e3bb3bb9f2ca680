"""Draft model: a smaller model of the same vocabulary, checked, made to fit, loaded and freed."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from backbone.process_limits import free_memory_bytes
from edge.llama.context import Context, ContextParams
from edge.llama.fit import MB, DoesNotFit
from edge.llama.gpu import Gpu, find_gpus, own_free_bytes, place
from edge.llama.kv_cache import KvCache
from edge.llama.kv_types import CacheShape, KvTypes
from edge.llama.model_drafter import DraftCache, ModelDrafter
from edge.llama.native_handles import Model
from edge.llama.options import LlamaOptions
from edge.llama.plan import asked_len, bound_compute_bytes, plan
from engine.draft_gate import KNOWN_STEPS
from engine.window import Pins, Window
from offload.errors import SettingsError

LONGEST = 4096  # tokens that a draft is written from; what is further back helps it little
MAX_PADDING = 128  # tokens that one vocabulary may have more than the other; as in llama.cpp
DRAFT_TOKENS = 8  # at once, where the options do not say
TIMED_DRAFT = 4  # tokens whose check is timed at the start
_log = logging.getLogger("nearfar.draft")


@dataclass(frozen=True, kw_only=True)
class DraftPlan:
    """Draft plan: how a draft model is run, and the bytes that it takes."""

    path: Path
    options: LlamaOptions
    params: ContextParams
    need_bytes: int


def plan_draft(path: Path, options: LlamaOptions, free_bytes: int) -> DraftPlan | None:
    """Return how the options' draft model is run beside the model at `path`; None without one.

    Reads the heads of both files, no weights. Raises SettingsError for a draft model of another
    vocabulary or one that cannot take tokens back, DoesNotFit where there is no memory for it,
    and CheckpointError for a file that cannot be run.
    """
    if options.draft_model is None:
        return None
    with Model(path, weights=False) as model, Model(options.draft_model, weights=False) as draft:
        require_same_words(model, draft)
        if not draft.can_take_back:
            raise SettingsError(
                f"draft_model {draft.path.name} cannot take a token back, as {draft.architecture} "
                "models cannot; choose one with attention only"
            )
        length = min(asked_len(model, options) or model.trained_len, draft.trained_len, LONGEST)
        own = replace(
            options,
            draft_model=None,
            max_model_len=length,
            max_num_seqs=1,
            window=None,
            num_gpu_layers=-1 if options.num_gpu_layers else 0,
            kv_cache_dtype=_kinds(draft, options.kv_cache_dtype),
        )
        params = _planned(draft, own, free_bytes)
        held = CacheShape.of(draft).cache_bytes(params.kv_types, params.num_tokens)
        need = draft.size_bytes + held + bound_compute_bytes(draft, own, params.num_tokens)
        return DraftPlan(path=draft.path, options=own, params=params, need_bytes=need)


def _planned(draft: Model, options: LlamaOptions, free_bytes: int) -> ContextParams:
    try:
        return plan(draft, options, free_bytes)
    except DoesNotFit as error:
        raise DoesNotFit(f"{error}, or leave draft_model out") from None


def _kinds(draft: Model, name: str) -> str:
    """Return the KV cache type: the larger model's where this one's heads allow it."""
    if name == "auto":
        return name
    shape, kind = CacheShape.of(draft), KvTypes.parse(name)
    return name if shape.allows(kind) and shape.slides(kind) else "auto"


def require_same_words(model: Model, draft: Model) -> None:
    """Raise SettingsError unless a token means the same to both models."""
    theirs, ours = model.vocabulary, draft.vocabulary
    shared = min(theirs.num_tokens, ours.num_tokens)
    difference = ""
    if theirs.kind != ours.kind:
        difference = "another kind of tokenizer"
    elif abs(theirs.num_tokens - ours.num_tokens) > MAX_PADDING:
        difference = f"{ours.num_tokens} tokens and not {theirs.num_tokens}"
    else:
        odd = (token for token in range(shared) if theirs.name(token) != ours.name(token))
        if (token := next(odd, None)) is not None:
            difference = f"{ours.name(token)!r} as token {token} and not {theirs.name(token)!r}"
    if difference:
        raise SettingsError(
            f"draft_model {draft.path.name} has another vocabulary than {model.path.name} "
            f"({difference}); choose a smaller model of the same family"
        )


class DraftModel:
    """Draft model: its weights and its context; it drafts for one answer at a time."""

    def __init__(self, chosen: DraftPlan, *, num_gpu_layers: int = 0) -> None:
        options = chosen.options
        with contextlib.ExitStack() as stack:
            model = stack.enter_context(
                Model(chosen.path, num_gpu_layers=num_gpu_layers, use_mmap=chosen.options.use_mmap)
            )
            self.context = stack.enter_context(Context(model, chosen.params))
            self._owned = stack.pop_all()
        capacity = chosen.params.num_tokens
        sinks = min(options.num_sinks, capacity // 2)
        window = Window(capacity, num_sinks=sinks, block=options.window_block)
        can_slide = self.context.can_forget()
        cache = KvCache(self.context, window, sliding=can_slide, reuse=True)
        self.reader = DraftCache(cache, model.vocabulary)
        self._max_draft = options.max_draft_tokens or DRAFT_TOKENS

    def time_steps(self, model: Context) -> None:
        """Time a few steps of the model that verifies and of this one, and warn where guesses
        cannot pay: nothing is then read for them, and nothing guessed, until that changes.
        """
        gate = self.reader.gate
        for size in (1,) * (KNOWN_STEPS + 1) + (TIMED_DRAFT + 1,):
            gate.times.add(size, timed_step(model, size))
        self.reader.guessed(1, min(timed_step(self.context, 1) for _ in range(KNOWN_STEPS)))
        if not self.reader.can_pay():
            _log.warning(
                "the draft model cannot make this model quicker here: a guess takes %.2f of a step "
                "and its check %.2f; leave draft_model out, or choose one a tenth as large",
                self.reader.step,
                gate.times.ratio(2) - 1,
            )

    def begin(
        self, prompt: Sequence[int], pins: Pins, *, num_tokens: int, owner: object = None
    ) -> ModelDrafter:
        """Return what drafts for an answer to `prompt` of a model of `num_tokens` tokens.

        What was read for another `owner` is never compared with this prompt.
        """
        return ModelDrafter(
            self.reader,
            prompt,
            pins,
            max_draft=self._max_draft,
            num_tokens=num_tokens,
            owner=owner,
        )

    def forget(self) -> None:
        """Forget all that was read."""
        self.reader.forget()

    def close(self) -> None:
        """Free the model; a second call does nothing."""
        self._owned.close()


def timed_step(context: Context, num_tokens: int) -> float:
    """Return the seconds of a step in an empty context, which is empty again behind it."""
    started = time.perf_counter()
    context.decode([0] * num_tokens, 0, all_logits=True)
    seconds = time.perf_counter() - started
    context.clear()
    return seconds


@dataclass(frozen=True, kw_only=True)
class MemoryRoom:
    """Memory room: the draft model, and what is left beside it for the larger one."""

    memory_bytes: int
    gpus: Sequence[Gpu]
    draft: DraftModel | None = None
    need_bytes: int = 0  # of the draft model

    @property
    def free_bytes(self) -> int:
        """Return the bytes left of all memory together."""
        return self.memory_bytes + own_free_bytes(self.gpus)

    @contextlib.contextmanager
    def refusals(self) -> Iterator[None]:
        """Let a refusal of the larger model name the draft model's part in it."""
        try:
            yield
        except DoesNotFit as error:
            if self.draft is None:
                raise
            takes = f"which takes {self.need_bytes / MB:.0f} MB"
            raise DoesNotFit(f"{error}, or leave draft_model out, {takes}") from None


def open_draft(path: Path, options: LlamaOptions, stack: contextlib.ExitStack) -> MemoryRoom:
    """Load the draft model, where there is one, for the model at `path`; `stack` frees it.

    It comes before the larger model, on the GPU too: each of its steps waits for it. Errors as
    plan_draft().
    """
    gpus = find_gpus() if options.num_gpu_layers else []
    memory = free_memory_bytes()
    chosen = plan_draft(path, options, memory + own_free_bytes(gpus))
    if chosen is None:
        return MemoryRoom(memory_bytes=memory, gpus=gpus)
    layers = place(chosen.path, chosen.options, memory, gpus)
    draft = DraftModel(chosen, num_gpu_layers=layers)
    stack.callback(draft.close)
    if layers:
        gpus, memory = find_gpus(), free_memory_bytes()
    else:  # its weights are mapped and come into memory only as they are used
        memory -= chosen.need_bytes
    return MemoryRoom(memory_bytes=memory, gpus=gpus, draft=draft, need_bytes=chosen.need_bytes)
