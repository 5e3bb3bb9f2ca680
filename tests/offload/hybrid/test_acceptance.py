"""Text that stands whatever comes: what is accepted, and how the far model goes on from it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from offload.aims import Aim
from offload.engine import can_continue, settling
from offload.errors import CloudFailed, Unsupported
from offload.hybrid.acceptance import Acceptance
from offload.hybrid.hybrid import Hybrid, HybridOptions
from offload.hybrid.settled import settled
from offload.messages import Delta, Finish, Request
from offload.policy.serving.consistency import QuestionForm
from offload.policy.serving.monitor import Monitor
from offload.policy.serving.rule import Estimate, Limit, PromptEstimate
from offload.policy.serving.signals import Signals
from tests.offload.hybrid.pairs import SURE, ask, said
from tests.offload.scripted import ScriptedEngine

QUESTION = {"role": "user", "content": "question"}
PRIVATE = QUESTION | {"stays": True}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


@dataclass(frozen=True)
class Doubting:
    """A rule that is sure of an answer until its text holds "doubt"."""

    watches_states = False
    cloud_model = None
    far_at_once_gain = None

    def expect(self, prompt: str) -> PromptEstimate:
        return PromptEstimate(near=0.5, far=0.9, form=QuestionForm.read(prompt))

    def judge(
        self,
        signals: Signals,
        expected: PromptEstimate,
        *,
        flags: Sequence[str] = (),
        states: Sequence[Any] = (),
    ) -> Estimate:
        right = 0.1 if "doubt" in signals.text else 0.9
        return Estimate(score=right, right=right, far=0.9)

    def gives_up(self, signals: Signals, expected: PromptEstimate, limit: Limit) -> bool:
        return False

    def seen_needs(self) -> list[float]:
        return []

    def limit(self, aim: Aim, *, min_gain: float | None = None, cost: float = 0.0) -> Limit:
        return Limit(max_need=0.4)


def words(*texts: str) -> list[Delta]:
    return [said(text, SURE, index) for index, text in enumerate(texts)]


SURE_WORDS = words(*[f"w{number} " for number in range(10)])
DOUBTED = words(*[f"w{number} " for number in range(6)], *["doubt "] * 6)


def behind(request: Request) -> list[Delta]:
    """What a far model says, that tells whether it goes on or begins anew."""
    return words("then ", "far") if request.answer_prefix else words("anew ", "far")


def hybrid_of(near: Sequence[Delta], **far: Any) -> tuple[Hybrid, ScriptedEngine]:
    cloud = ScriptedEngine(script=behind, pause_s=0.0, **far)
    edge = ScriptedEngine(list(near), pause_s=0.0)
    return Hybrid(edge, cloud, options=HybridOptions(rule=Doubting())), cloud


async def read(hybrid: Hybrid, request: Request) -> tuple[list[str], Finish]:
    """Return what a reader who cannot take text back gets, piece by piece, and the end."""
    stream = settled(settling(hybrid, request), may_replace=hybrid.may_replace(request))
    items = [item async for item in stream]
    assert isinstance(items[-1], Finish)
    assert not any(isinstance(item, Delta) and item.replaces for item in items)
    return [item.text for item in items[:-1] if isinstance(item, Delta)], items[-1]


def test_what_is_accepted_only_grows_and_ends_with_a_word() -> None:
    monitor = Monitor(Doubting(), Limit(max_need=0.4), Doubting().expect("Why?"))
    acceptance, lengths = Acceptance(Limit(max_need=0.4)), []
    for piece in words("It", " is", " so", " bec", "ause", " doubt", " no", " yes"):
        monitor.see(piece)
        acceptance.see(monitor)
        lengths.append(acceptance.length)
    assert lengths == [0, 3, 6, 9, 9, 17, 23, 23]  # at the eighth token it is judged again
    assert "It is so because doubt no yes"[:9] == "It is so "


def test_an_answer_whose_worth_lies_in_its_end_is_held() -> None:
    for question in ("What is 3 + 4?", "Which? (A) red (B) blue\n(A) red\n(B) blue"):
        monitor = Monitor(Doubting(), Limit(max_need=0.4), Doubting().expect(question))
        acceptance = Acceptance(Limit(max_need=0.4))
        for piece in SURE_WORDS:
            monitor.see(piece)
            acceptance.see(monitor)
        assert acceptance.length == 0


async def test_a_sure_answer_is_read_while_it_is_written() -> None:
    hold = asyncio.Event()
    edge = ScriptedEngine(SURE_WORDS, hold=hold, hold_before=6)
    hybrid = Hybrid(edge, ScriptedEngine(["far"]), options=HybridOptions(rule=Doubting()))
    stream = settled(settling(hybrid, ask()), may_replace=hybrid.may_replace(ask()))
    first = [await anext(stream) for _ in range(6)]
    assert "".join(item.text for item in first if isinstance(item, Delta)) == "w0 w1 w2 w3 w4 w5 "
    hold.set()
    rest = [item async for item in stream]
    assert isinstance(rest[-1], Finish) and rest[-1].route is not None
    assert rest[-1].route.served_by == "edge" and rest[-1].route.reason == "confident"


async def test_the_far_model_goes_on_from_what_was_read_when_doubt_comes_later() -> None:
    hybrid, cloud = hybrid_of(DOUBTED)
    texts, finish = await read(hybrid, ask())
    (asked,) = cloud.requests
    assert asked.answer_prefix == "w0 w1 w2 w3 w4 w5 doubt "
    assert "".join(texts) == asked.answer_prefix + "then far"
    assert finish.route is not None and finish.route.served_by == "cloud"
    assert finish.route.begun_by == "scripted"


async def test_without_a_reader_who_cannot_take_text_back_the_answer_begins_anew() -> None:
    hybrid, cloud = hybrid_of(DOUBTED)
    texts = [item.text async for item in hybrid.generate(ask()) if isinstance(item, Delta)]
    assert "".join(texts).endswith("anew far") and cloud.requests[0].answer_prefix == ""


async def test_a_doubt_at_the_very_end_leaves_the_answer_that_was_read() -> None:
    hybrid, cloud = hybrid_of(words(*[f"w{n} " for n in range(6)], "doubt"))
    texts, finish = await read(hybrid, ask())
    assert "".join(texts) == "w0 w1 w2 w3 w4 w5 doubt" and not cloud.requests
    assert finish.route is not None and finish.route.reason == "passed_on"


@pytest.mark.parametrize(
    "more",
    [
        {"tools": (TOOL,)},
        {"sampling": {"json_schema": SCHEMA}},
        {"sampling": {"logprobs": 2}},
        {"model": "auto-b20"},
        {"messages": [PRIVATE, QUESTION]},
    ],
)
async def test_where_a_seam_could_show_all_is_held_as_ever(more: dict[str, Any]) -> None:
    body = {"messages": [QUESTION], **more}
    request = msgspec.convert(body, Request)
    hybrid, _ = hybrid_of(SURE_WORDS)
    items = [item async for item in settling(hybrid, request)]
    assert all(item.accepted is None for item in items if isinstance(item, Delta))


class Refusing(ScriptedEngine):
    """An engine that cannot go on with an answer, and may know it."""

    knows = True

    def continues(self, request: Request) -> bool:
        return not self.knows

    def generate(self, request: Request) -> Any:
        if request.answer_prefix:
            raise Unsupported("no way to go on")
        return super().generate(request)


async def test_a_far_model_that_cannot_go_on_is_given_no_half_answer() -> None:
    cloud = Refusing(["far"])
    hybrid = Hybrid(
        ScriptedEngine(DOUBTED, pause_s=0.0), cloud, options=HybridOptions(rule=Doubting())
    )
    assert not can_continue(cloud, ask())
    assert (await read(hybrid, ask()))[0] == ["far"]


async def test_the_near_answer_stands_when_the_far_model_turns_out_unable() -> None:
    cloud = Refusing(["far"])
    cloud.knows = False
    hybrid = Hybrid(
        ScriptedEngine(DOUBTED, pause_s=0.0), cloud, options=HybridOptions(rule=Doubting())
    )
    texts, finish = await read(hybrid, ask())
    assert "".join(texts) == "".join(piece.text for piece in DOUBTED)
    assert finish.route is not None and finish.route.reason == "cloud_failed"
    assert finish.route.failure is not None and "cannot go on" in finish.route.failure


async def test_a_link_cut_at_any_moment_leaves_one_answer_and_nothing_twice() -> None:
    chance, ends = random.Random(7), {"near": 0, "far": 0, "both": 0}
    near_text = "".join(piece.text for piece in DOUBTED)
    for _ in range(1000):
        cut = CloudFailed("the link is gone; ask again") if chance.random() < 0.8 else None
        cloud = ScriptedEngine(
            script=behind, pause_s=0.0, error=cut, error_before=chance.randrange(4)
        )
        edge = ScriptedEngine(
            script=lambda request: words("and ", "near") if request.answer_prefix else DOUBTED,
            pause_s=0.0,
        )
        hybrid = Hybrid(edge, cloud, options=HybridOptions(rule=Doubting()))
        texts, _ = await read(hybrid, ask())
        text, begun = "".join(texts), cloud.requests[0].answer_prefix
        if text == near_text:
            ends["near"] += 1
        elif text == begun + "then far":
            ends["far"] += 1
        else:
            assert text == begun + "then and near"
            ends["both"] += 1
    assert min(ends.values()) > 50
