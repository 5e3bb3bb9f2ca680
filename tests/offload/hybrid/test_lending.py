"""Words of the far model in a near answer: where, how many, what leaves, and what goes wrong."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from offload.collect import collect
from offload.egress.door import Door, EgressEngine
from offload.engine import AnswerStream, settling
from offload.errors import CloudFailed, Unsupported
from offload.hybrid.hybrid import Hybrid, HybridOptions
from offload.hybrid.settled import settled
from offload.messages import (
    Budget,
    Confidence,
    Delta,
    Finish,
    Message,
    ModelCard,
    Privacy,
    Request,
    Usage,
)
from offload.policy.serving.dispatch import Prices
from tests.offload.hybrid.pairs import SURE, UNSURE, Told, ask
from tests.offload.scripted import CARD

LENDS = frozenset({"near", "lend"})


@dataclass
class Story:
    """An engine that goes on with a story wherever an answer stands, a half word a token.

    `doubted` are the words whose second half it is not sure of; `shout` writes them in capitals, so
    that it can be seen whose they are. `fails` has for each call the token before which it raises.
    """

    words: list[str]
    doubted: frozenset[int] = frozenset()
    shout: bool = False
    fails: list[int | None] = field(default_factory=list)
    error: Exception = field(default_factory=lambda: CloudFailed("the link is gone; ask again"))
    requests: list[Request] = field(default_factory=list)

    def card(self) -> ModelCard:
        return CARD

    async def aclose(self) -> None:
        pass

    async def generate(self, request: Request) -> AnswerStream:
        self.requests.append(request)
        fails = self.fails.pop(0) if self.fails else None
        at, count = len(request.answer_prefix.split()), 0
        tokens = [half for word in range(at, len(self.words)) for half in self._halves(word)]
        for number, (text, logprob) in enumerate(tokens):
            if number == fails:
                raise self.error
            if number == request.sampling.max_tokens:
                break
            text = text.upper() if self.shout else text
            confidence = (Confidence(logprob, 0.5, 0.5),)
            yield Delta(text=text, index=number, token_ids=(number,), confidence=confidence)
            count += 1
        if fails is not None:
            raise self.error
        usage = Usage(completion_tokens=count, prompt_tokens=7)
        if self.shout:
            usage = usage.plus(Usage(bytes_sent=10, cost=1.0))
        yield Finish(reason="stop" if count == len(tokens) else "length", usage=usage)

    def _halves(self, at: int) -> list[tuple[str, float]]:
        word, logprob = self.words[at], UNSURE if at in self.doubted else SURE
        return [(f" {word[:1]}", SURE), (word[1:], logprob)]


def story(count: int, doubted: frozenset[int]) -> list[str]:
    """Return words of two letters; a doubted one is a letter and a digit, such as "f5"."""
    letters = "abcdefghij"
    return [
        f"{letters[at % 10]}{at % 10 if at in doubted else letters[at // 10 % 10]}"
        for at in range(count)
    ]


def engines(*doubted: int, count: int = 20, **far: Any) -> tuple[Story, Story]:
    """Return a near engine that is not sure of some words, and a far one that shouts."""
    words = story(count, frozenset(doubted))
    return Story(words, frozenset(doubted)), Story(words, shout=True, **far)


def lending(near: Story, far: Any, **more: Any) -> Hybrid:
    options = HybridOptions(**{"rule": Told(), "actions": LENDS} | more)
    return Hybrid(near, far, options=options)


async def answer(hybrid: Hybrid, request: Request | None = None) -> tuple[str, Finish]:
    found = await collect(hybrid.generate(request or ask()))
    assert not any(each.replaces for each in found.deltas), "what was shown stands"
    return found.text, found.finish


async def test_the_far_model_writes_the_words_that_the_near_one_is_not_sure_of() -> None:
    near, far = engines(5)
    text, finish = await answer(lending(near, far))
    assert text.split() == [
        *near.words[:5],
        *(each.upper() for each in near.words[5:12]),
        *near.words[12:],
    ]
    (visit,) = far.requests
    assert visit.answer_prefix == " " + " ".join(near.words[:5]), "up to the word that was doubted"
    assert visit.sampling.max_tokens == 16
    assert near.requests[1].answer_prefix == " " + " ".join([*near.words[:5], *text.split()[5:12]])
    route = finish.route
    assert route is not None and route.reason == "lent" and route.served_by == "edge"
    assert (route.visits, route.far_read, route.far_written) == (1, 7, 16)
    assert finish.usage.bytes_sent == 10 and finish.usage.cost == 1.0
    assert finish.usage.completion_tokens == 2 * 5 + 16 + 2 * 8


async def test_no_more_is_lent_than_the_near_model_has_paid_for_with_its_own_words() -> None:
    near, far = engines(*range(0, 200, 8), count=200)
    text, finish = await answer(lending(near, far))
    assert finish.route is not None and 1 < finish.route.visits <= 3
    assert finish.route.far_written <= 16 + 0.15 * finish.usage.completion_tokens
    assert text.lower().split() == near.words[: len(text.split())]


async def test_nothing_is_lent_unless_it_may_be_chosen() -> None:
    near, far = engines(5)
    text, finish = await answer(lending(near, far, actions=frozenset({"near", "ask"})))
    assert text.split() == near.words and not far.requests
    assert finish.route is not None and finish.route.visits == 0


@pytest.mark.parametrize("what", ["json_schema", "stop", "tools", "stays"])
async def test_what_is_said_in_a_form_or_stays_here_is_not_helped_with(what: str) -> None:
    near, far = engines(5)
    sampling = {
        "json_schema": {"json_schema": {"type": "object"}},
        "stop": {"stop": ("zzz",)},
    }.get(what, {})
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    request = Request(
        messages=(
            Message(role="user", content="x", stays=what == "stays"),
            Message(role="user", content="question"),
        ),
        sampling=type(ask().sampling)(**sampling),
        tools=(tool,) if what == "tools" else (),
    )
    text, _ = await answer(lending(near, far), request)
    assert text.split() == near.words and not far.requests


async def test_a_link_cut_at_any_of_a_thousand_moments_leaves_one_whole_answer() -> None:
    chance, lent, failed = random.Random(5), 0, 0
    for _ in range(1000):
        near, far = engines(*chance.sample(range(20), chance.randrange(1, 4)))
        far.fails = [chance.choice([None, chance.randrange(18)]) for _ in range(6)]
        text, finish = await answer(lending(near, far))
        assert text.lower().split() == near.words, "nothing twice, nothing lost"
        assert finish.route is not None and finish.reason == "stop"
        lent += text != text.lower()
        failed += finish.route.failure is not None
    assert lent > 200 and failed > 200


async def test_where_the_link_dies_the_near_model_has_not_to_begin_again() -> None:
    near, far = engines(5, 9, fails=[3])
    text, finish = await answer(lending(near, far))
    assert text.split() == near.words and len(near.requests) == 1 and len(far.requests) == 1
    assert finish.route is not None and finish.route.failure == "the link is gone; ask again"


CARD_NUMBER = "4111 1111 1111 1111"


@pytest.mark.parametrize("question", ["Which card?", f"My card is {CARD_NUMBER}. Say it."])
async def test_no_part_of_a_card_leaves_where_two_visits_would_split_it(question: str) -> None:
    words = ["It", "is", *CARD_NUMBER.split(), *story(10, frozenset({8}))]
    near, far = Story(words, frozenset(range(40))), Story(words, shout=True)
    request = Request(messages=(Message(role="user", content=question),))
    text, _ = await answer(lending(near, far), request)
    assert text.lower().split() == [each.lower() for each in words]
    assert far.requests, "what stands before and behind it may leave"
    for visit in far.requests:
        left = visit.messages[0].content + visit.answer_prefix
        assert "4111" not in left and "1111" not in left


async def test_nor_where_the_far_model_is_to_go_on_with_a_doubted_answer() -> None:
    words = ["It", "is", *CARD_NUMBER.split()]
    near, far = Story(words, frozenset({3})), Story(words, shout=True)
    options = HybridOptions(handover="continue")  # by a threshold: at the first doubt
    text, _ = await answer_of(Hybrid(near, far, options=options))
    assert far.requests[0].answer_prefix == " It is "
    assert text.lower().split() == [each.lower() for each in words]


async def answer_of(hybrid: Hybrid) -> tuple[str, Finish]:
    found = await collect(hybrid.generate(ask()))
    return found.text, found.finish


@pytest.mark.parametrize("agrees", [True, False])
async def test_a_person_is_asked_once_for_all_visits_of_a_request(agrees: bool) -> None:
    asked: list[str] = []

    async def consent(request: Request) -> bool:
        asked.append(request.id)
        return agrees

    near, far = engines(*range(0, 200, 8), count=200)
    cloud = EgressEngine(far, door=Door(consent=consent))
    options = HybridOptions(rule=Told(), actions=LENDS)
    hybrid = Hybrid(near, cloud, options=options, consent=consent)
    await answer(hybrid, ask(privacy=Privacy.ASK))
    assert len(asked) == 1 and (len(far.requests) > 1) == agrees


async def test_a_budget_that_ends_between_two_visits_leaves_the_rest_near() -> None:
    near, far = engines(*range(0, 200, 8), count=200)
    request = ask(budget=Budget(max_cost=1.0))
    _, finish = await answer(lending(near, far, prices=Prices(price_out=100.0)), request)
    assert finish.route is not None and finish.route.visits == 1 and finish.usage.cost == 1.0


async def test_a_far_side_that_cannot_go_on_is_tried_once() -> None:
    near, far = engines(5, fails=[0])
    far.error = Unsupported("no way to go on with an answer")
    hybrid = lending(near, far)
    for _ in range(3):
        assert (await answer(hybrid))[0].split() == near.words
    assert len(far.requests) == 1


class Mute(Story):
    async def generate(self, request: Request) -> AnswerStream:
        self.requests.append(request)
        yield Delta(text="<think> let me see", token_ids=(1,))
        yield Finish(reason="length", usage=Usage(completion_tokens=1))


async def test_a_far_model_that_goes_on_with_nothing_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    near, _ = engines(5)
    far = Mute(near.words)
    hybrid = lending(near, far)
    for _ in range(8):
        text, finish = await answer(hybrid)
        assert text.split() == near.words and finish.route is not None
    assert len(far.requests) == 5 and "went on with none" in caplog.text


async def test_an_answer_of_many_tokens_ends_where_its_request_says() -> None:
    near, far = engines(2)
    request = ask(sampling=type(ask().sampling)(max_tokens=11))
    text, finish = await answer(lending(near, far), request)
    assert finish.reason == "length" and finish.usage.completion_tokens == 11
    assert text.lower() == " aa ba c2 da ea"


async def test_the_far_model_may_end_the_answer() -> None:
    near, far = engines(18)
    text, finish = await answer(lending(near, far))
    assert finish.reason == "stop" and text.split()[-2:] == ["I8", "JB"]


async def test_a_reader_who_cannot_take_text_back_gets_lent_words_where_nothing_is_asked() -> None:
    for actions, visits in ((LENDS, 1), (LENDS | {"ask"}, 0)):
        near, far = engines(5)
        hybrid = lending(near, far, actions=actions)
        request = ask()
        stream = settled(settling(hybrid, request), may_replace=hybrid.may_replace(request))
        found = await collect(stream)
        assert found.text.lower().split() == near.words and len(far.requests) == visits


class Doubting(Told):
    """A rule that doubts every finished answer."""

    def judge(self, *given: Any, **more: Any) -> Any:
        return super().judge(*given, **more).__class__(score=0.1, right=0.1, far=0.9)


async def test_an_answer_that_is_doubted_for_all_that_was_lent_is_asked_for_whole() -> None:
    near, far = engines(5)
    hybrid = lending(near, far, rule=Doubting(), actions=LENDS | {"ask"})
    found = await collect(hybrid.generate(ask()))
    assert found.text.split() == [each.upper() for each in near.words] and len(far.requests) == 2
    route = found.finish.route
    assert route is not None and route.served_by == "cloud" and route.visits == 1
    assert route.far_written == 16 + 40 and math.isclose(found.finish.usage.cost, 2.0)
