"""Answer generation in one slot: the prompt is evaluated, then tokens are decoded until the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from backbone.errors import NearfarError
from backbone.schema import SchemaConstraint
from backbone.text_stream import token_texts
from edge.device.governor import ThreadTuner
from edge.llama.context import StepAborted
from edge.llama.draft_model import DraftModel
from edge.llama.kv_cache import KvCache
from edge.llama.prompt import PromptWriter
from edge.llama.sampler import ConfidenceGauge, Sampler, prompt_token, top_logprobs
from edge.llama.slots import Owner, Slot
from edge.llama.vocabulary import LlamaVocabulary
from engine.answer_state import AnswerState, Deadline
from engine.draft_gate import DraftGate
from engine.drafts import Drafter, DraftStats, FirstOf, GatedDrafter
from engine.prompt_lookup import PromptLookup
from engine.token_healing import KnownEnd
from engine.window import Pins
from offload.engine import StateObserver
from offload.errors import ContextLengthError
from offload.messages import Confidence, Delta, Finish, FinishReason, PromptToken, Request
from offload.reading import Progress, PromptReading
from offload.scored_turn import scored_places
from offload.thinking import opened, tail_of


class StateObservers:
    """Hidden state observers, by the id of the request that they watch."""

    def __init__(self) -> None:
        self._observers: dict[str, StateObserver] = {}

    @contextmanager
    def watch(self, request_id: str, observer: StateObserver) -> Iterator[None]:
        """Show an answer's hidden states to `observer` while the block lasts."""
        self._observers[request_id] = observer
        try:
            yield
        finally:
            del self._observers[request_id]

    def of(self, request_id: str) -> StateObserver | None:
        """Return who watches an answer, if anybody does."""
        return self._observers.get(request_id)


class ChosenToken(NamedTuple):
    """Chosen token; it was chosen from `row` of the cache's logits, until the next is asked."""

    token: int
    confidence: Confidence
    row: int


def steps(
    cache: KvCache, sampler: Sampler, pins: Pins, tuner: ThreadTuner, drafter: Drafter | None = None
) -> Generator[ChosenToken, None, None]:
    """Yield tokens chosen after what the cache holds, until it has no more room.

    Each token is drawn from the logits it would have had alone: a draft only saves the step.
    What a schema forces comes as a draft that is always right. The iterator may be left at any
    time; drafted tokens that were not taken leave the cache.
    """
    chosen = ChosenToken(*sampler.next(cache.logits(0)), 0)
    while True:
        if drafter is not None:
            drafter.add(chosen.token)
        yield chosen
        forced = sampler.forced[: max(0, min(cache.window.free - 1, cache.max_forced))]
        draft = forced or _draft(cache, drafter)
        started = time.perf_counter()
        with tuner.step(plain=not draft):
            if not cache.append([chosen.token, *draft], pins):
                return
        seconds = time.perf_counter() - started
        accepted = 0
        try:
            while True:
                chosen = ChosenToken(*sampler.next(cache.logits(accepted)), accepted)
                if accepted == len(draft) or chosen.token != draft[accepted]:
                    break
                accepted += 1
                if drafter is not None:
                    drafter.add(chosen.token)
                yield chosen
        finally:
            cache.rollback(len(draft) - accepted)
        if drafter is not None and not forced:
            drafter.observe(len(draft), accepted, seconds)


def _draft(cache: KvCache, drafter: Drafter | None) -> list[int]:
    if drafter is None:
        return []
    return drafter.propose(min(cache.window.free - 1, cache.max_draft))


_DONE = object()


@dataclass(frozen=True, kw_only=True)
class GenerationTask:
    """Generation task of one answer; `observer` is shown each token's hidden state.

    `spell` are bytes of the answer's beginning that its first tokens must spell once more;
    `constraint` holds it to a JSON schema.
    """

    request: Request
    prompt: list[int]
    answer: AnswerState
    spell: bytes = b""
    constraint: SchemaConstraint | None = None
    deadline: Deadline
    observer: StateObserver | None = None
    progress: Progress | None = None  # of the prompt's reading


class Generation:
    """Generation of answers by one model; it keeps nothing between them."""

    def __init__(
        self,
        vocabulary: LlamaVocabulary,
        prompts: PromptWriter,
        *,
        max_model_len: int,
        max_draft_tokens: int,
        draft: DraftModel | None = None,
    ) -> None:
        self._vocabulary = vocabulary
        self._prompts = prompts
        self._max_model_len = max_model_len
        self._max_draft_tokens = max_draft_tokens
        self._draft = draft
        self._gate = DraftGate()  # of copies, over all answers
        self.draft_stats = DraftStats()

    def write(self, slot: Slot, task: GenerationTask) -> Iterator[Delta | Finish]:
        """Yield a Delta per token and a Finish.

        Raises ContextLengthError where what must stay does not fit, SchemaRefusal for a JSON
        schema too complex to go on, and CheckpointError for a model whose output is no number.
        """
        cache, request, prompt = slot.cache, task.request, task.prompt
        pins = self.pins(cache, request, prompt)
        cache.keep_hidden = task.observer is not None
        vocabulary = self._vocabulary
        gauge = ConfidenceGauge(vocabulary.num_tokens)
        sampler = Sampler(request.sampling, vocabulary, gauge, task.constraint)
        sampler.bind(self._prompts.healer.bind(task.spell))
        scores: list[PromptToken] = []
        ended = self._read(slot, task, pins, scores)
        task.answer.prefilled(tuple(scores))
        task.answer.num_cached = cache.num_reused
        if ended is not None:
            yield task.answer.finish(ended)
            return
        sampler.remember(prompt)
        drafter = self.make_drafter(prompt, pins, slot.owner)
        tokens = steps(cache, sampler, pins, slot.tuner, drafter)
        with contextlib.closing(tokens):
            yield from self._decode(cache, task, tokens)

    def make_drafter(self, prompt: list[int], pins: Pins, owner: Owner) -> Drafter | None:
        """Return what drafts tokens for an answer, None where drafts are off.

        A copy of earlier text comes before a draft model's guess: it costs nothing.
        """
        drafters: list[Drafter] = []
        if self._max_draft_tokens > 0:
            copied = PromptLookup(prompt, max_draft=self._max_draft_tokens, times=self._gate.times)
            drafters.append(GatedDrafter(copied, self._gate))
        if self._draft is not None:
            size = self._vocabulary.num_tokens
            drafters.append(self._draft.begin(prompt, pins, num_tokens=size, owner=owner))
        return FirstOf(drafters, self.draft_stats) if drafters else None

    def pins(self, cache: KvCache, request: Request, prompt: list[int]) -> Pins:
        """Return what of a prompt must stay; raises ContextLengthError where that cannot fit."""
        last = len(prompt) + request.sampling.max_tokens
        pins = Pins.whole(len(prompt))
        too_long = last > self._max_model_len or cache.window.dropped > 0
        # A prompt whose tokens are all to be judged is read whole or not at all.
        if cache.sliding and too_long and not request.sampling.prompt_logprobs:
            pins = self._prompts.pins(request, prompt)
        if pins.num_tokens >= self._max_model_len:
            raise ContextLengthError(pins.num_tokens, self._max_model_len)
        return pins

    def _read(
        self, slot: Slot, task: GenerationTask, pins: Pins, scores: list[PromptToken]
    ) -> FinishReason | None:
        """Evaluate what is new in the prompt; return why it was left unfinished, if it was.

        What else runs is looked at before each piece: a long prompt takes minutes.

        Where the prompt's own tokens are to be judged, all of it is new, and `scores` is filled.
        """
        if ended := task.deadline.ended():
            return ended
        cache, judged = slot.cache, task.request.sampling.prompt_logprobs
        pieces = self._score(cache, task, scores) if judged else cache.read(task.prompt, pins)
        held = 0 if judged else cache.held(task.prompt)
        reading = PromptReading(task.progress, held, len(task.prompt))
        slot.tuner.before_prompt()
        cache.stop_at = task.deadline.stop_at
        try:
            while next(pieces, _DONE) is not _DONE:
                reading.tell(len(cache.window.stream))
                if ended := task.deadline.ended():
                    return ended
                slot.tuner.before_prompt()
        except StepAborted:
            return "cancelled"
        finally:
            cache.stop_at = 0  # a step of writing is short, and its answer is worth its end
        return None

    def _score(
        self, cache: KvCache, task: GenerationTask, scores: list[PromptToken]
    ) -> Iterator[None]:
        prompt, count, vocabulary = task.prompt, task.request.sampling.logprobs, self._vocabulary
        texts = token_texts((vocabulary.piece(each), vocabulary.text(each)) for each in prompt)
        asked = scored_places(task.request, prompt, self._prompts.tokens)
        if asked.start == 1:
            scores.append(prompt_token(prompt[0], texts[0], None, count, vocabulary))
        for places in cache.score(prompt, asked.start):
            # The logits of a place are of the token behind it.
            for at in range(max(places.start + 1, asked.start), min(places.stop + 1, asked.stop)):
                logits = cache.logits(at - places.start - 1)
                scores.append(prompt_token(prompt[at], texts[at], logits, count, vocabulary))
            yield

    def _decode(
        self, cache: KvCache, task: GenerationTask, tokens: Iterator[ChosenToken]
    ) -> Iterator[Delta | Finish]:
        """Yield token after token until the answer ends, of itself or by force."""
        answer, known = task.answer, KnownEnd(task.spell)
        stops = task.request.sampling.stop_token_ids
        tail = self._vocabulary.written(tail_of(task.prompt))
        if said := opened(task.request, tail):
            yield Delta(text=said, source="edge")
        ended: FinishReason = "length"  # when the tokens run out, the context is full
        try:
            for chosen in tokens:
                if self._vocabulary.is_end(chosen.token) or chosen.token in stops:
                    ended = "stop"
                    break
                if (news := known.news(self._vocabulary.piece(chosen.token))) is not None:
                    yield self._delta(cache, task, chosen, news)
                if (reason := self._reason_to_end(task)) is not None:
                    ended = reason
                    break
        except NearfarError as error:
            if answer.num_tokens == 0:
                raise
            # The reader already has part of the answer, so the failure is its end.
            yield answer.finish("error", error=str(error))
            return
        if (rest := answer.rest()) is not None:
            yield rest
        yield answer.finish(ended, dropped_tokens=cache.window.dropped)

    def _reason_to_end(self, task: GenerationTask) -> FinishReason | None:
        if task.constraint is not None and task.constraint.done:
            return "stop"
        return task.answer.ended() or task.deadline.ended()

    def _delta(
        self, cache: KvCache, task: GenerationTask, chosen: ChosenToken, piece: bytes
    ) -> Delta:
        """Return a token's Delta of these new bytes, with whatever else was asked for of it."""
        if task.observer is not None:
            task.observer(task.answer.num_tokens, cache.hidden(chosen.row).copy())
        count = task.request.sampling.logprobs
        others = top_logprobs(cache.logits(chosen.row), count, self._vocabulary) if count else ()
        return task.answer.take(chosen.token, piece, chosen.confidence, others)
