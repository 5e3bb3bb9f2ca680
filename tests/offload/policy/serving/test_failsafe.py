"""No estimate of the policy fails a request, whatever it was made from: it is said, and goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from offload.errors import RequestError, SettingsError
from offload.hybrid.hybrid import Hybrid, HybridOptions
from offload.messages import Finish, Request, Usage
from offload.policy.serving.dispatch import LatencyModel
from offload.policy.serving.failsafe import Failsafe
from offload.policy.serving.gate import Conditions
from offload.policy.serving.rule import ThresholdRule
from tests.offload.hybrid.pairs import SURE, UNSURE, ask, far, near, read

PLACES = ("expect", "judge", "gives_up", "limit")


@dataclass(frozen=True, kw_only=True)
class Broken(ThresholdRule):
    """A rule one of whose estimates fails."""

    where: str = ""
    error: Exception

    def __getattribute__(self, name: str) -> Any:
        if name in PLACES and name == super().__getattribute__("where"):
            return super().__getattribute__("_fail")
        return super().__getattribute__(name)

    def _fail(self, *_: object, **__: object) -> None:
        raise self.error


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), SettingsError("calibrate again")])
@pytest.mark.parametrize("where", PLACES)
async def test_an_estimate_that_fails_leaves_the_near_answer(
    where: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    cloud = far()
    options = HybridOptions(rule=Broken(where=where, error=error))
    with caplog.at_level(logging.WARNING, "nearfar.policy"):
        text, finish = await read(Hybrid(near(SURE, UNSURE), cloud, options=options), ask())
    assert text == "near0 near1 " and cloud.requests == []
    assert finish.route is not None and finish.route.reason == "undecided"
    assert len(caplog.records) == 1 and "question" not in caplog.text


async def test_a_gate_that_cannot_be_asked_lets_nothing_leave() -> None:
    def broken() -> Conditions:
        raise OSError(5, "I/O error")

    cloud = far()
    hybrid = Hybrid(near(UNSURE), cloud, conditions=broken)
    text, finish = await read(hybrid, ask())
    assert text == "near0 " and cloud.requests == [] and not hybrid.may_replace(ask())
    assert finish.route is not None and finish.route.reason == "undecided"


async def test_a_record_that_cannot_be_kept_does_not_fail_the_answer() -> None:
    class Full:
        def record(self, request: Request, decision: object) -> None:
            raise ValueError("no room")

        def close(self) -> None:
            return None

    text, finish = await read(Hybrid(near(SURE), None, recorder=Full()), ask())
    assert text == "near0 " and finish.reason == "stop"


async def test_an_aim_that_cannot_be_kept_is_still_refused() -> None:
    hybrid = Hybrid(near(SURE), far(), options=HybridOptions(rule=ThresholdRule()))
    with pytest.raises(RequestError, match="needs a calibrated policy"):
        await read(hybrid, ask(model="auto-q95"))


def test_after_the_first_failure_no_further_estimate_of_a_request_is_run() -> None:
    ran: list[str] = []
    safely = Failsafe()

    def fail() -> int:
        return 1 // 0

    def run() -> int:
        ran.append("again")
        return 2

    assert safely(fail, 7) == 7 and safely.failed
    assert safely(run, 8) == 8 and ran == []


def _ids(count: int) -> Request:
    return Request(prompt_token_ids=tuple(range(1, count + 1)))


def _finish(prompt_tokens: int) -> Finish:
    usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=3)
    return Finish(reason="stop", usage=usage)


def test_prompts_of_token_ids_say_nothing_of_how_long_a_texts_token_is() -> None:
    clock, text = LatencyModel(), Request(prompt="x" * 400)
    for _ in range(3):
        clock.note(_ids(100), _finish(100), first_s=1.0, whole_s=1.2)
    assert clock.near(text).first_s == pytest.approx(1.0)  # at 4 characters a token
    assert clock.near(_ids(50)).first_s == pytest.approx(0.5)


@pytest.mark.parametrize("make", [_ids, lambda n: Request(prompt="y" * n)])
@pytest.mark.parametrize("told", [0, 1])
def test_any_answer_can_be_noted_and_any_request_predicted_after_it(
    make: Callable[[int], Request], told: int
) -> None:
    clock = LatencyModel()
    clock.note(make(1), _finish(told), first_s=0.0, whole_s=0.0)
    for request in (_ids(5), Request(prompt="z" * 9)):
        assert clock.near(request).whole_s is not None
        assert clock.far(request, object()).whole_s is not None
