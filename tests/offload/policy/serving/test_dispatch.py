"""Who starts: prompt, time and money, before anything is written."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from offload.messages import Finish, Request, Sampling, Usage
from offload.policy.serving.dispatch import (
    DispatchInputs,
    LatencyModel,
    PredictedTimes,
    Prices,
    dispatch,
)
from offload.policy.serving.rule import Limit, PromptEstimate

LIMIT = Limit(max_need=0.1)
HARD, EASY = PromptEstimate(near=0.1, far=0.9), PromptEstimate(near=0.9, far=0.95)


def _start(expected: PromptEstimate, near: float | None, far: float | None, **more: float) -> str:
    outlook = DispatchInputs(
        expected=expected,
        near=PredictedTimes(whole_s=near),
        far=PredictedTimes(whole_s=far),
        **more,
    )
    return dispatch(outlook, LIMIT, far_at_once_gain=0.7)[0]


def test_without_a_deadline_only_the_hard_go_straight_to_the_cloud() -> None:
    assert _start(EASY, 1, 1) == "near"
    assert _start(HARD, 1, 1) == "far"
    assert _start(PromptEstimate(), None, None) == "near"


@pytest.mark.parametrize(
    ("near", "far", "start"),
    [(1, 9, "near_only"), (9, 1, "far"), (3, 3, "both"), (1, 1, "far"), (None, 1, "far")],
)
def test_a_deadline_decides_what_can_still_be_done(
    near: float | None, far: float | None, start: str
) -> None:
    assert _start(HARD, near, far, deadline_s=4.0) == start


def test_an_easy_question_is_not_hedged() -> None:
    assert _start(EASY, 3, 3, deadline_s=4.0) == "near"


def test_a_price_asks_for_more_gain_where_answers_have_a_worth() -> None:
    prices = Prices(price_in=1.0, price_out=10.0, worth=0.01)
    cost = prices.expected_cost(num_chars=1000, max_tokens=100)
    assert cost == pytest.approx((300 * 1.0 + 100 * 10.0) / 1e6)
    assert prices.in_gain(cost) == pytest.approx(0.13)
    assert Prices(price_in=1.0).in_gain(cost) == 0.0


def _finish(prompt_tokens: int, tokens: int) -> Finish:
    usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=tokens)
    return Finish(reason="stop", usage=usage)


def test_a_near_answer_is_predicted_by_the_length_of_its_prompt() -> None:
    clock = LatencyModel()
    assert clock.near(Request(prompt="x")).whole_s is None
    for _ in range(5):
        clock.note(Request(prompt="x" * 400), _finish(100, 11), first_s=1.0, whole_s=3.0)
    long, short = (clock.near(Request(prompt="x" * n)) for n in (800, 200))
    assert long.first_s == pytest.approx(2.0) and short.first_s == pytest.approx(0.5)
    assert long.whole_s == pytest.approx(4.0)
    few = Request(prompt="x" * 800, sampling=Sampling(max_tokens=6))
    assert clock.near(few).whole_s == pytest.approx(3.0)


@dataclass
class Known:
    healthy: bool = True
    rtt_s: float | None = 0.05
    queue_s: float | None = None
    first_piece_s: float | None = 0.2


@dataclass
class FakeCloud:
    known: Known

    def snapshot(self) -> Known:
        return self.known


def test_a_far_answer_is_predicted_by_the_way_and_the_queue() -> None:
    clock, request = LatencyModel(), Request(prompt="x")
    assert clock.far(request, object()) == PredictedTimes()
    assert clock.far(request, FakeCloud(Known())).first_s == pytest.approx(0.25)
    clock.note(request, _finish(10, 11), first_s=0.3, whole_s=1.3)
    calm = clock.far(request, FakeCloud(Known()))
    assert calm.first_s == pytest.approx(0.3) and calm.whole_s == pytest.approx(1.3)
    busy = clock.far(request, FakeCloud(Known(queue_s=4.0)))
    assert busy.first_s == pytest.approx(4.05)
