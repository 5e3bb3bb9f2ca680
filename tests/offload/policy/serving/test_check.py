"""What a far model tells of a near answer that it read, and what that makes of it."""

from __future__ import annotations

import logging

import pytest

from offload.errors import Unsupported
from offload.messages import Alternative, Message, PromptToken, Request
from offload.policy.serving.check import (
    CheckWatch,
    FarReading,
    check_request,
    judged,
    read_answer,
)
from offload.policy.serving.rule import Estimate

QUESTION = Request(messages=(Message(role="user", content="Who wrote it?"),))


def tokens(*pairs: tuple[str, float | None]) -> list[PromptToken]:
    return [PromptToken(at, text, logprob) for at, (text, logprob) in enumerate(pairs)]


def test_the_check_begins_as_the_question_does_and_writes_one_token() -> None:
    asked = check_request(QUESTION, "Ada.")
    assert asked.messages[:1] == QUESTION.messages and asked.messages[1].content == "Ada."
    assert asked.scored_turn == 1 and asked.sampling.max_tokens == 1
    assert asked.id != QUESTION.id and len(check_request(QUESTION, "x").id) <= 64


def test_only_the_answers_own_tokens_count() -> None:
    told = tokens(("Who", None), (" wrote", -9.0), ("\nA", -1.0), ("da.", -3.0), ("\nIs", -9.0))
    reading = read_answer("Ada.", told, ())
    assert [each.text for each in reading.tokens] == ["\nA", "da."]
    assert reading.mean_logprob == -2.0 and reading.verdict is None


def test_a_turn_that_left_with_placeholders_is_all_that_was_told() -> None:
    reading = read_answer("call 555 1234", tokens(("call", -1.0), (" [PHONE_1]", -2.0)), ())
    assert reading.mean_logprob == -1.5


@pytest.mark.parametrize("told", [[], tokens(("other", None), (" text", -1.0))])
def test_a_far_model_that_tells_nothing_of_the_answer_cannot_check(
    told: list[PromptToken],
) -> None:
    with pytest.raises(Unsupported):
        read_answer("Ada.", told, ())


def test_a_verdict_is_the_share_of_yes_among_yes_and_no() -> None:
    words = [Alternative(1, " Yes", -0.5), Alternative(2, "no", -0.5), Alternative(3, "Well", -1)]
    reading = read_answer("a", tokens(("a", -1.0)), words)
    assert reading.verdict == pytest.approx(0.5)


def test_what_the_far_model_finds_likely_is_likelier_right() -> None:
    doubt = Estimate(score=-1.0, right=0.3, far=0.8)
    found = [
        judged(doubt, FarReading(tuple(tokens(("a", nats))), None)).right for nats in (-2, -0.05)
    ]
    assert found[0] is not None and found[1] is not None and found[0] < 0.3 < found[1]
    surer = judged(Estimate(score=1.0, right=0.8), FarReading(tuple(tokens(("a", -0.05))), None))
    assert surer.right is not None and surer.right > found[1]


@pytest.mark.parametrize("accepts", [True, False])
def test_a_far_model_that_always_says_the_same_is_noticed_and_said(
    accepts: bool, caplog: pytest.LogCaptureFixture
) -> None:
    watch = CheckWatch()
    with caplog.at_level(logging.WARNING, "nearfar.policy"):
        for _ in range(19):
            watch.note(accepted=accepts)
        assert watch.is_useful and not caplog.messages
        watch.note(accepted=accepts)
        watch.note(accepted=accepts)
    assert not watch.is_useful and len(caplog.messages) == 1
    mixed = CheckWatch()
    for number in range(100):
        mixed.note(accepted=number % 7 == 0)
    assert mixed.is_useful
