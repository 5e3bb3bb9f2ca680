"""Sequence: one request in the batch, what it evaluates next and what it makes of the result."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from backbone.errors import CheckpointError, NearfarError
from backbone.sampling import Sampler
from backbone.tokenizer import Tokenizer
from edge.small_gpu.prompt import PromptChunks
from edge.small_gpu.slots import RingSlot
from edge.small_gpu.step import LogitsRow, SampledToken, StepPart
from edge.small_gpu.token_healing import TextConstraint
from engine.answer_state import AnswerState, Deadline
from engine.drafts import Drafter
from engine.token_healing import KnownEnd
from engine.window import Pins, common_prefix
from offload.messages import Alternative, Delta, Finish, FinishReason, PromptToken, Request
from offload.reading import Progress, PromptReading
from offload.thinking import opened, tail_of

Item = Delta | Finish | NearfarError  # an error ends it before the first Delta
SCORED_PIECE = 64  # tokens; the logits of thousands of rows would not fit

NOT_A_NUMBER = (
    "the model's output is no number; its weights are damaged, or overflow in this precision: "
    "set dtype to float32 or bfloat16"
)


@dataclass(frozen=True, kw_only=True)
class RingTask:
    """Ring task: a request's tokens, what of them must stay, and how its answer is chosen."""

    request: Request
    prompt: list[int]
    pins: Pins
    sampler: Sampler
    drafter: Drafter | None
    spelling: TextConstraint | None = None  # what its first tokens must spell once more
    deadline: Deadline
    received: float  # of time.monotonic()
    stops: tuple[str, ...] = ()  # what ends the answer beside the request's own
    owner: object = None  # whose text may be shared with it
    session: str | None = None  # under which name it is kept
    progress: Progress | None = None  # of the prompt's reading
    reuse: bool = True  # of what a slot has read before


class RingSequence:
    """Ring sequence: reads a task's prompt into a slot, then writes its answer there.

    `post` takes every Delta and the one Finish, in the thread that runs the steps.
    """

    def __init__(self, task: RingTask, tokenizer: Tokenizer, post: Callable[[Item], None]) -> None:
        self.task = task
        self._tokenizer = tokenizer
        self._ends = {*tokenizer.eos_token_ids, *task.request.sampling.stop_token_ids}
        self._post = post
        self._answer = self._new_answer()
        self._slot: RingSlot | None = None
        self._reading: PromptChunks | None = None
        self._piece = range(0)
        self._draft: list[int] = []
        self._began = 0.0  # when the step of the newest draft began
        self._known = KnownEnd(task.spelling.text if task.spelling else b"")
        self._last = 0  # the newest token of the answer, which no ring holds yet
        self._scores: list[PromptToken] = []
        if task.request.sampling.prompt_logprobs:
            self._texts = tokenizer.token_texts(task.prompt)
            self._scores.append(PromptToken(task.prompt[0], self._texts[0], None))

    @property
    def slot(self) -> RingSlot:
        """Return its slot."""
        assert self._slot is not None, "it waits for a slot"
        return self._slot

    @property
    def has_slot(self) -> bool:
        """Whether it has a slot."""
        return self._slot is not None

    @property
    def is_writing(self) -> bool:
        """Whether its prompt has been read."""
        return self._reading is not None and self._reading.done

    @property
    def num_forced(self) -> int:
        """How many tokens come next whatever the network says."""
        return len(self.task.sampler.forced)

    def enter(self, slot: RingSlot) -> None:
        """Take a slot, and keep what of the prompt is in it."""
        task, self._slot = self.task, slot
        self._reading = PromptChunks(slot, task.prompt, task.pins, reuse=task.reuse)
        self._answer = self._new_answer()  # its clock begins now
        self._answer.num_cached = self._reading.num_shared
        self._told = PromptReading(task.progress, self._reading.num_shared, len(task.prompt))

    def part(self, limit: int) -> StepPart | None:
        """Return at most `limit` tokens to evaluate next; None where the context is full.

        Raises ContextLengthError for a prompt that does not fit.
        """
        assert self._reading is not None, "it waits for a slot"
        if not self._reading.done:
            return self._read(self._reading, limit)
        if not self.slot.make_room(1, self.task.pins):
            return None
        self._began = time.perf_counter()
        count = self._num_alternatives
        if forced := self.task.sampler.forced[: min(limit, 1 + self._draft_room)]:
            self._draft = list(forced[:-1])
            rows = [LogitsRow(given=token, num_alternatives=count) for token in forced]
        else:
            self._draft = self._drafted(limit - 1)
            row = LogitsRow(sampler=self.task.sampler, num_alternatives=count)
            rows = [row] * (1 + len(self._draft))
        return StepPart(ring=self.slot.ring, tokens=[self._last, *self._draft], rows=rows)

    def take(self, part: StepPart, found: list[SampledToken]) -> FinishReason | None:
        """Go on by what was found; return why the answer is over, if it is.

        Raises CheckpointError where the network's output is no number, SchemaRefusal where no token
        can follow, and RequestError where none spells the end of the answer's beginning.
        """
        assert self._reading is not None, "it waits for a slot"
        if not all(one.is_number for one in found):
            raise CheckpointError(NOT_A_NUMBER)
        if not self._reading.done:
            return self._took_piece(self._reading, found)
        right = _num_right(self._draft, found)
        if self.task.drafter is not None:
            self.task.drafter.observe(len(self._draft), right, time.perf_counter() - self._began)
        self.slot.hold(part.tokens[: right + 1])
        return self._write(found[: right + 1])

    def end(self, reason: FinishReason) -> None:
        """Post what is still held back, and the Finish."""
        answer = self._answer
        if (rest := answer.rest()) is not None:
            self._post(rest)
        dropped = self.slot.ring.dropped if self.has_slot else 0
        self._post(answer.finish(reason, dropped_tokens=dropped))

    def fail(self, error: NearfarError) -> None:
        """Post the error: as the end of what the reader already has, or alone."""
        answer = self._answer
        self._post(answer.finish("error", error=str(error)) if answer.num_tokens else error)

    @property
    def _num_alternatives(self) -> int:
        return self.task.request.sampling.logprobs

    def _new_answer(self) -> AnswerState:
        task, queue_s = self.task, time.monotonic() - self.task.received
        return AnswerState(
            task.request, num_prompt=len(task.prompt), queue_s=queue_s, stops=task.stops
        )

    def _read(self, reading: PromptChunks, limit: int) -> StepPart:
        prompt, scored = self.task.prompt, self.task.request.sampling.prompt_logprobs
        self._piece = piece = reading.piece(min(limit, SCORED_PIECE) if scored else limit)
        rows: list[LogitsRow] = []
        if scored:  # each row tells of the token behind it
            count = self._num_alternatives
            following = prompt[piece.start + 1 : piece.stop + 1]
            rows += [LogitsRow(given=token, num_alternatives=count) for token in following]
        if piece.stop == len(prompt):
            rows.append(
                LogitsRow(sampler=self.task.sampler, num_alternatives=self._num_alternatives)
            )
        return StepPart(ring=self.slot.ring, tokens=prompt[piece.start : piece.stop], rows=rows)

    def _took_piece(self, reading: PromptChunks, found: list[SampledToken]) -> FinishReason | None:
        reading.took(self._piece)
        self._told.tell(self._piece.stop)
        scores, chosen = (found[:-1], found[-1:]) if reading.done else (found, [])
        self._scores += [
            PromptToken(
                one.token,
                self._texts[at],
                one.confidence.logprob,
                self._alternatives(one),
            )
            for at, one in enumerate(scores, len(self._scores))
        ]
        if not reading.done:
            return None
        self._answer.prefilled(tuple(self._scores))
        if said := opened(self.task.request, self._tokenizer.written(tail_of(self.task.prompt))):
            self._post(Delta(text=said, source="edge"))
        return self._write(chosen)

    def _write(self, chosen: list[SampledToken]) -> FinishReason | None:
        task = self.task
        for one in chosen:
            if self._spelling is not None:
                self._spelling.require(one.token)
            if one.token in self._ends:
                return "stop"
            self._last = one.token
            # What is spelled once more the reader has already.
            news = self._known.news(self._tokenizer.token_bytes(one.token))
            if news is not None:
                others = self._alternatives(one)
                self._post(self._answer.take(one.token, news, one.confidence, others))
            task.sampler.took(one.token)
            self._maybe_spelled()
            if task.drafter is not None:
                task.drafter.add(one.token)
            if (reason := self._answer.ended()) is not None:
                return reason
            if task.sampler.is_done:
                return "stop"
        return None

    @property
    def _spelling(self) -> TextConstraint | None:
        """What is still to be spelled."""
        spelling = self.task.spelling
        return None if spelling is None or spelling.done else spelling

    def _maybe_spelled(self) -> None:
        """Let the sampler choose freely once the end of the beginning has been spelled."""
        if self.task.spelling is not None and self.task.spelling.done:
            self.task.sampler.constrain(None)

    def _drafted(self, limit: int) -> list[int]:
        """Return a draft that neither drops nor compresses what its tokens would have seen."""
        if self.task.drafter is None or self._spelling is not None:
            return []
        return self.task.drafter.propose(min(limit, self._draft_room))

    @property
    def _draft_room(self) -> int:
        """How many tokens can be computed beside the newest one."""
        ring, max_tokens = self.slot.ring, self.task.request.sampling.max_tokens
        room = min(ring.limit - ring.used, ring.until_settled, ring.chunk) - 1
        return max(0, min(room, max_tokens - self._answer.num_tokens - 1))

    def _alternatives(self, one: SampledToken) -> tuple[Alternative, ...]:
        name = self._tokenizer.token_name
        return tuple(Alternative(token, name(token), nats) for token, nats in one.alternatives)


def _num_right(draft: list[int], found: list[SampledToken]) -> int:
    """Return how many drafted tokens the network would have chosen itself."""
    return common_prefix(draft, [one.token for one in found])
