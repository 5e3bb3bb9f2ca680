"""What the settings say now holds for every text, whoever sends it and whenever it was begun."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from offload.config.settings_sources import change_settings
from offload.egress.door import Door, EgressEngine
from offload.egress.ledger.entries import Departure
from offload.egress.ledger.ledger import Ledger
from offload.egress.outbox import Outbox
from offload.egress.permission import Allowed, EgressContext, LivePermission
from offload.egress.privacy.findings import Rules
from offload.errors import EgressBlocked, EgressNotPermitted
from offload.hybrid.hybrid import Hybrid, HybridOptions
from offload.messages import Finish, Message, Privacy, Request, Route, Usage
from offload.policy.serving.dispatch import Prices
from offload.policy.serving.gate import DayLimits
from offload.policy.serving.rule import ThresholdRule
from tests.offload.scripted import ScriptedEngine


def ask(text: str = "question", privacy: Privacy = Privacy.CLOUD_OK) -> Request:
    return Request(messages=(Message(role="user", content=text),), privacy=privacy)


class _Closing(ScriptedEngine):
    closed = False

    async def aclose(self) -> None:
        self.closed = True


async def read(engine: Hybrid | EgressEngine, request: Request) -> Finish:
    *_, last = [item async for item in engine.generate(request)]
    assert isinstance(last, Finish)
    return last


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


async def test_never_closes_the_way_for_requests_that_were_begun_under_another_class(
    file: Path,
) -> None:
    allowed, cloud = LivePermission(file), _Closing(("far",))
    made: list[ScriptedEngine] = []

    def reopen() -> ScriptedEngine:
        made.append(ScriptedEngine(("far again",)))
        return made[-1]

    door = Door(endpoint="tcp://cloud:1", allowed=allowed, reopen=reopen)
    options = HybridOptions(rule=ThresholdRule(min_logprob=-0.1))
    engine = Hybrid(
        ScriptedEngine(("near",)), EgressEngine(cloud, door=door), options=options, allowed=allowed
    )
    assert (await read(engine, ask())).route.served_by == "cloud"  # type: ignore[union-attr]
    change_settings(file, "policy", {"privacy": "local_only"})
    finish = await read(engine, ask())
    assert finish.route is not None and finish.route.reason == "local_only"
    assert len(cloud.requests) == 1 and cloud.closed
    change_settings(file, "policy", {"privacy": "cloud_ok"})
    assert (await read(engine, ask())).route.served_by == "cloud"  # type: ignore[union-attr]
    assert len(made) == 1 and len(cloud.requests) == 1


async def test_a_damaged_file_lets_nothing_leave(file: Path) -> None:
    cloud = ScriptedEngine()
    door = Door(endpoint="tcp://cloud:1", allowed=LivePermission(file))
    file.write_text("[policy\n")
    with pytest.raises(EgressNotPermitted, match="cannot be read"):
        await read(EgressEngine(cloud, door=door), ask())
    assert not cloud.requests


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"offline": True}, "offline"),
        ({"privacy": Privacy.LOCAL_ONLY}, "local_only"),
        ({"privacy": Privacy.ASK}, "not_allowed"),
        ({"limits": DayLimits(num_bytes=20)}, "day_bytes"),
    ],
)
async def test_the_outbox_passes_the_gate_at_the_moment_it_asks_again(
    said: dict[str, object], reason: str, tmp_path: Path
) -> None:
    outbox, cloud = Outbox(None), ScriptedEngine(("far",))
    out_of_reach = Route(served_by="edge", reason="unreachable")
    assert outbox.put(ask(), "near", Finish(reason="stop", route=out_of_reach))
    now = Allowed(**said)  # type: ignore[arg-type]
    ledger = Ledger(tmp_path / "ledger.sqlite")
    spent = Departure(
        request_id="one",
        left_at=time.time(),
        endpoint="tcp://cloud:1",
        why="unsure",
        privacy="cloud_ok",
        num_bytes=100,
        digest="",
        found={},
        content="",
    )
    ledger.leaving(spent)
    door = EgressEngine(
        cloud, door=Door(endpoint="tcp://cloud:1", allowed=lambda: now), ledger=ledger
    )
    again = door.within(EgressContext(reason="asked_again"))
    with pytest.raises(EgressNotPermitted) as refused:
        await read(door, ask())
    assert refused.value.reason == reason
    assert [each async for each in outbox.run(again)] == []
    assert not cloud.requests and len(outbox.pending()) == 1 and outbox.why_waiting
    now = Allowed()
    assert [each.answer async for each in outbox.run(again)] == ["far"]
    ledger.close()


async def test_where_nobody_attends_nobody_is_asked() -> None:
    asked: list[Request] = []

    async def consent(request: Request) -> bool:
        asked.append(request)
        return True

    cloud = ScriptedEngine()
    allowed = Allowed(privacy=Privacy.ASK)
    door = EgressEngine(
        cloud, door=Door(endpoint="tcp://cloud:1", allowed=lambda: allowed, consent=consent)
    )
    with pytest.raises(EgressBlocked):
        async for _ in door.within(EgressContext(attended=False)).generate(ask()):
            pass
    assert not asked and not cloud.requests
    await read(door, ask())
    assert len(asked) == len(cloud.requests) == 1


def test_whoever_opens_a_cloud_puts_the_door_before_it() -> None:
    root = Path(__file__).parents[3]
    rooms = [root / name for name in ("edge", "offload", "serve", "examples")]
    texts = {path: path.read_text() for room in rooms for path in room.rglob("*.py")}
    opening = {path for path, text in texts.items() if "open_cloud(settings" in text}
    assert len(opening) >= 4
    assert [path for path in opening if "open_door(" not in texts[path]] == []


async def test_a_person_is_asked_once_for_a_text_that_passes_both_gate_and_door() -> None:
    asked: list[Request] = []

    async def consent(request: Request) -> bool:
        asked.append(request)
        return True

    cloud, allowed = ScriptedEngine(("far",)), Allowed(rules=Rules(email="ask"))
    door = Door(endpoint="tcp://cloud:1", allowed=lambda: allowed, consent=consent)
    options = HybridOptions(forced="cloud")
    engine = Hybrid(
        ScriptedEngine(), EgressEngine(cloud, door=door), options=options, consent=consent
    )
    finish = await read(engine, ask("write to ann@example.org", Privacy.ASK))
    assert finish.route is not None and finish.route.served_by == "cloud"
    assert len(asked) == len(cloud.requests) == 1


async def test_a_cloud_without_a_door_gets_one_that_redacts_and_prices() -> None:
    cloud = ScriptedEngine(("far",), finish=Finish(reason="stop", usage=Usage(prompt_tokens=3)))
    options = HybridOptions(forced="cloud", prices=Prices(price_in=1_000_000.0))
    finish = await read(Hybrid(ScriptedEngine(), cloud, options=options), ask("ann@example.org"))
    assert cloud.requests[0].last_text() == "[EMAIL_1]" and finish.usage.cost == 3.0
