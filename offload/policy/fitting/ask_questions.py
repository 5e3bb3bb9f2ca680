"""Questions asked of one engine, several at once; a run can be stopped and taken up again.

What fails for a moment is asked again after a wait, and a question that fails every time is left
out: its place in the table stays free for the next run. An engine that answers none of many in
a row is gone, and only then does the run end with its error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from offload.collect import collect
from offload.engine import Engine, HiddenStateSource
from offload.errors import EgressBlocked, KeyRefused, LinkError, Overloaded
from offload.link.backoff import Backoff
from offload.messages import Alternative, Confidence, Delta, Message, Request, Sampling
from offload.policy.fitting.answer_table import AnswerRow, AnswerTable, key_of, packed, token_kind
from offload.policy.fitting.questions import Grader, Question, given
from offload.policy.serving.answer_features import measured
from offload.policy.serving.flags import flags
from offload.policy.serving.probe import MAX_TOKENS
from offload.policy.serving.signals import Signals
from offload.thinking import split

ATTEMPTS = 4  # at one question, before it is left for another run
_LOST_AFTER = 8  # questions left out with no answer between them: the engine is gone
_WAITS = Backoff(first_s=1.0, most_s=20.0)
_DIGITS = 3  # decimals kept of a number in nats

Pause = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class QuestionOptions:
    """Options of asking questions: the sampling, and what is kept of the answers.

    at_once: questions in flight. keep_text: whether the question and the answer are kept.
    keep_states: whether the hidden states of the last tokens are. pause: waits so many seconds.
    """

    grader: Grader
    sampling: Sampling = Sampling()  # noqa: RUF009 - it is frozen
    at_once: int = 4
    keep_text: bool = False
    keep_states: bool = True
    pause: Pause = asyncio.sleep

    def describe(self) -> str:
        """Return how the answers are drawn, as the table's rows say it."""
        sampling = self.sampling
        drawn = "greedy" if sampling.temperature == 0.0 else f"temperature {sampling.temperature:g}"
        if sampling.temperature and sampling.top_p < 1.0:
            drawn += f", top_p {sampling.top_p:g}"
        return f"{drawn}, {sampling.max_tokens} tokens"


async def ask_all(
    questions: Sequence[Question],
    engine: Engine,
    table: AnswerTable,
    how: QuestionOptions,
    *,
    on_progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Ask what the table lacks, each answer kept as it comes; return how many were left out.

    `on_progress` is called with how many are done. Raises RequestError for a table of another
    model, and what the engine raises where it answers no more.
    """
    model, sampling = engine.card().name, how.describe()
    table.require(model, sampling)
    waiting = {key_of(each): each for each in questions}
    run = _Run(engine, table, how, [q for key, q in waiting.items() if key not in table.found])
    run.done, run.on_progress = len(questions) - len(run.waiting), on_progress
    on_progress(run.done)
    await together(*(run.work() for _ in range(how.at_once)))
    if run.lost is not None:
        raise run.lost
    return run.num_left_out


async def together(*jobs: Coroutine[Any, Any, Any]) -> list[Any]:
    """Run jobs concurrently; where one fails, stop the others before its error is raised."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


class _Run:
    """Run over the unanswered questions, shared by the workers that ask concurrently."""

    def __init__(
        self, engine: Engine, table: AnswerTable, how: QuestionOptions, waiting: list[Question]
    ) -> None:
        self._engine, self._table, self._how = engine, table, how
        self.waiting = waiting
        self._next = iter(waiting)
        self._in_a_row = 0
        self.num_left_out = self.done = 0
        self.on_progress: Callable[[int], None] = lambda _: None
        self.lost: LinkError | Overloaded | None = None

    async def work(self) -> None:
        """Ask question after question, until none is left or the engine is gone."""
        for question in self._next:
            try:
                row = await self._ask_with_retries(question)
            except (LinkError, Overloaded) as error:
                self._leave_out(error)
            else:
                self._table.add([row])
                self._in_a_row = 0
                self.done += 1
                self.on_progress(self.done)
            if self.lost is not None:
                return

    def _leave_out(self, error: LinkError | Overloaded) -> None:
        self.num_left_out += 1
        self._in_a_row += not isinstance(
            error, EgressBlocked
        )  # one of these says nothing of the next
        none = self._in_a_row == len(self.waiting)
        if none or self._in_a_row >= _LOST_AFTER or isinstance(error, KeyRefused):
            self.lost = error

    async def _ask_with_retries(self, question: Question) -> AnswerRow:
        waits = iter(_WAITS)
        for _ in range(ATTEMPTS - 1):
            try:
                return await answer(self._engine, question, self._how)
            except (KeyRefused, EgressBlocked):
                raise  # asking again changes nothing
            except (LinkError, Overloaded) as error:
                busy_s = error.retry_after_s if isinstance(error, Overloaded) else 0.0
                await self._how.pause(max(next(waits), busy_s))
        return await answer(self._engine, question, self._how)


async def answer(engine: Engine, question: Question, how: QuestionOptions) -> AnswerRow:
    """Ask one question once."""
    message = Message(role="user", content=question.question)
    request, states = Request(messages=(message,), sampling=how.sampling), list[Any]()
    with ExitStack() as block:
        if how.keep_states and isinstance(engine, HiddenStateSource):
            block.enter_context(engine.watch(request.id, lambda _, state: states.append(state)))
        read = await collect(engine.generate(request))
    ended = read.finish.reason
    # An answer that broke off is a wrong one; it tells how often that happens.
    text = "" if ended == "error" else read.written
    alternatives = [place for delta in read.deltas for place in delta.alternatives]
    confidence = [token for delta in read.deltas for token in delta.confidence]
    signals = Signals()
    for delta in read.deltas:
        signals.take(delta.confidence, delta.text if text else "")
    pieces = [piece for delta in read.deltas for piece in _pieces(delta)]
    hidden_size, kept = packed(states[-MAX_TOKENS:])
    return AnswerRow(
        id=question.id,
        key=key_of(question),
        set=question.set,
        right=how.grader(split(text).answer, question),  # what was thought before is no answer
        ended=ended,
        given=given(text, question),
        model=engine.card().name,
        sampling=how.describe(),
        question=question.question if how.keep_text else "",
        text=text if how.keep_text else "",
        tokens=tuple(map(_rounded, confidence)),
        kinds="".join(map(token_kind, pieces)) if alternatives else "",
        likely=tuple(tuple(round(a.logprob, 2) for a in place) for place in alternatives),
        likely_kinds=tuple(_kinds(place) for place in alternatives),
        measures=measured(question.question, signals),
        flags=flags(text, question=question.question, ended=ended),
        hidden_size=hidden_size,
        states=kept,
    )


def _pieces(delta: Delta) -> list[str]:
    """Return the text of each token of a Delta, as its alternatives spell it."""
    spelled = {each.token_id: each.text for place in delta.alternatives for each in place}
    return [spelled.get(token, delta.text) for token in delta.token_ids]


def _kinds(place: Sequence[Alternative]) -> str:
    return "".join(token_kind(each.text) for each in place)


def _rounded(token: Confidence) -> Confidence:
    three = (token.logprob, token.entropy, token.margin)
    return Confidence(*(round(each, _DIGITS) for each in three))
