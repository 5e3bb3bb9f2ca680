"""A chain of three over real sockets: what goes along, what comes back, and that nothing loops."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import msgspec
import pytest

from offload.chain import Waypoint, onward_words
from offload.egress.permission import AskConsent, nobody
from offload.engine import AnswerStream, Engine
from offload.errors import ChainRefused, CloudFailed
from offload.hybrid.hybrid import Hybrid, HybridOptions
from offload.hybrid.settled import SettledEngine
from offload.link.message_bodies import End
from offload.link.wire import encode, for_version, open_body, open_envelope
from offload.messages import MAX_HOPS, Budget, Finish, Hop, ModelCard, Privacy, Request, Route
from offload.policy.serving.dispatch import Prices
from offload.policy.serving.rule import ThresholdRule
from tests.offload.hybrid.pairs import SURE, UNSURE, ask, read, said
from tests.offload.links import linked
from tests.offload.scripted import CARD, ScriptedEngine


class Model(ScriptedEngine):
    """A model of a name, as sure of its one word as it is told."""

    def __init__(self, name: str, logprob: float = SURE) -> None:
        super().__init__([said(f"{name} ", logprob)], pause_s=0.0)
        self.name = name

    def card(self) -> ModelCard:
        return msgspec.structs.replace(CARD, name=self.name)


async def agree(_: Request) -> bool:
    return True


def hybrid(edge: Engine, cloud: Engine, consent: AskConsent = nobody, price: float = 0.0) -> Hybrid:
    options = HybridOptions(
        rule=ThresholdRule(min_logprob=-1.0), prices=Prices(price_in=price, price_out=price)
    )
    return Hybrid(edge, cloud, options=options, consent=consent)


@dataclass
class Chain:
    laptop: Hybrid
    desktop: Model
    gpu: Model = field(default_factory=lambda: Model("gpu"))


@contextlib.asynccontextmanager
async def chain(desktop: float = UNSURE, price: float = 0.0) -> AsyncIterator[Chain]:
    """A laptop that is unsure, a desktop, and a GPU; each behind a link of its own."""
    middle, gpu = Model("desktop", desktop), Model("gpu")
    async with linked(gpu) as (_, to_gpu):
        second = hybrid(middle, to_gpu, price=price)
        async with linked(SettledEngine(second)) as (_, to_desktop):
            first = hybrid(Model("laptop", UNSURE), to_desktop, agree, price)
            yield Chain(first, middle, gpu)


async def test_the_end_tells_every_place_and_who_wrote_it() -> None:
    async with chain() as three:
        text, finish = await read(three.laptop, ask())
    assert text == "gpu " and finish.route is not None
    assert finish.route.onward == (Hop(served_by="cloud", reason="unsure", model="gpu"),)
    assert finish.route.served_by == "cloud" and finish.route.model == "gpu"
    words = onward_words(finish.route)
    assert words == ["there far: the near model was not sure, so the far one was asked"]


async def test_a_middle_that_is_sure_answers_by_itself() -> None:
    async with chain(desktop=SURE) as three:
        text, finish = await read(three.laptop, ask())
        assert three.gpu.requests == []
    assert text == "desktop " and finish.route is not None
    assert finish.route.onward == (Hop(served_by="edge", reason="confident", model="desktop"),)
    assert finish.route.model == "desktop"


async def test_a_text_that_left_by_consent_goes_no_further_than_it_was_allowed() -> None:
    async with chain() as three:
        text, finish = await read(three.laptop, ask(privacy=Privacy.ASK))
        assert three.gpu.requests == [] and len(three.desktop.requests) == 1
    assert text == "desktop " and finish.route is not None
    assert [hop.reason for hop in finish.route.onward] == ["not_allowed"]


async def test_a_private_text_stays_on_the_first_machine() -> None:
    async with chain() as three:
        text, _ = await read(three.laptop, ask(privacy=Privacy.LOCAL_ONLY))
        assert text == "laptop " and three.desktop.requests == []


async def test_the_time_that_is_left_goes_along() -> None:
    async with chain() as three:
        await read(three.laptop, ask(deadline_s=60.0))
        middle, last = three.desktop.requests[0].deadline_s, three.gpu.requests[0].deadline_s
    assert middle is not None and last is not None and last < middle < 60.0


async def test_what_a_price_leaves_of_the_budget_goes_along() -> None:
    async with chain(price=1.0) as three:
        await read(three.laptop, ask(budget=Budget(max_cost=1.0, max_bytes_sent=10_000)))
        budgets = [each.requests[0].budget for each in (three.desktop, three.gpu)]
    first, second = (budget.max_cost for budget in budgets)
    assert first is not None and second is not None
    assert 0 < 1.0 - first == pytest.approx(first - second)
    assert [budget.max_bytes_sent for budget in budgets] == [10_000, 10_000]


class Later:
    """An engine that is made after the server in front of it."""

    engine: Engine

    def card(self) -> ModelCard:
        return CARD

    def generate(self, request: Request) -> AnswerStream:
        return self.engine.generate(request)

    async def aclose(self) -> None:
        await self.engine.aclose()


async def test_a_question_that_comes_back_is_refused_and_answered_where_it_was() -> None:
    later, first = Later(), Model("laptop", UNSURE)
    async with linked(later) as (_, to_laptop):
        desktop = hybrid(Model("desktop", UNSURE), to_laptop)
        async with linked(SettledEngine(desktop)) as (_, to_desktop):
            laptop = hybrid(first, to_desktop)
            later.engine = SettledEngine(laptop)
            text, finish = await read(laptop, ask())
    assert text == "desktop " and len(first.requests) == 1
    assert finish.route is not None
    assert [hop.reason for hop in finish.route.onward] == ["cloud_failed"]


async def test_a_question_that_was_passed_on_too_often_is_answered_here() -> None:
    cloud = Model("far")
    tired = ask(via=tuple(f"place{number}" for number in range(MAX_HOPS)))
    text, finish = await read(hybrid(Model("near", UNSURE), cloud), tired)
    assert text == "near " and cloud.requests == []
    assert finish.route is not None and "times already" in (finish.route.failure or "")


def test_a_place_names_itself_and_knows_itself_again() -> None:
    here, other = Waypoint(), Waypoint()
    onward = other.onward(here.onward(ask()))
    assert len(set(onward.via)) == 2
    for place in (here, other):
        with pytest.raises(ChainRefused, match="in a circle") as refused:
            place.onward(onward)
        assert isinstance(refused.value, CloudFailed)


def test_an_older_peer_is_sent_what_it_can_read() -> None:
    asked = Waypoint().onward(ask())
    hop = Hop(served_by="edge", reason="confident", model="m")
    route = Route(served_by="cloud", reason="unsure", onward=(hop,))
    end = End(1, Finish(reason="stop", route=route))
    assert encode(asked)[0] == 5 and encode(end)[0] == 5
    older = for_version(asked, 4), for_version(end, 3)
    assert [encode(each)[0] for each in older] == [3, 3]
    assert isinstance(older[0], Request) and isinstance(older[1], End)
    assert older[0].via == () and older[1].finish.route == Route(served_by="cloud", reason="unsure")
    assert open_body(open_envelope(encode(end))) == end
    assert for_version(end, 5) is end
