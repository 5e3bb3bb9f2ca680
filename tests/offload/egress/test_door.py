"""The door: what may not leave does not, what is replaced comes back, and all of it is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from offload.egress import door as egress_door
from offload.egress.door import Door, EgressEngine
from offload.egress.ledger.entries import LedgerEntry
from offload.egress.ledger.ledger import Ledger
from offload.egress.ledger.reading import open_book
from offload.egress.permission import Allowed, EgressContext
from offload.egress.privacy.findings import Rules
from offload.errors import CloudUnreachable, ContextLengthError, EgressBlocked, LinkError
from offload.hybrid.hybrid import Hybrid
from offload.messages import Delta, Finish, Message, Privacy, Request, Sampling, Usage
from offload.policy.serving.dispatch import Prices
from offload.prompt_length import MAX_CHARS_PER_TOKEN
from tests.offload.scripted import CARD as CARD_OF_CLOUD
from tests.offload.scripted import ScriptedEngine

MAIL = "bob@example.com"
CARD = "4111 1111 1111 1111"


@pytest.fixture
def ledger(tmp_path: Path):
    kept = Ledger(tmp_path / "ledger.sqlite")
    yield kept
    kept.close()


def lines(ledger: Ledger) -> list[LedgerEntry]:
    with open_book(ledger.path) as book:
        return book.departures()


def ask(text: str, **options: object) -> Request:
    return Request(messages=(Message(role="user", content=text),), **options)  # type: ignore[arg-type]


def door(**options: object) -> Door:
    rules = options.pop("rules", Rules())
    allowed = Allowed(rules=rules)  # type: ignore[arg-type]
    return Door(endpoint="tcp://cloud:1", allowed=lambda: allowed, **options)  # type: ignore[arg-type]


async def read(outgoing: EgressEngine, request: Request) -> tuple[str, Finish]:
    text, finish = "", None
    async for item in outgoing.generate(request):
        if isinstance(item, Delta):
            text += item.text
        else:
            finish = item
    assert finish is not None
    return text, finish


async def test_a_local_only_text_is_stopped_and_counted(ledger: Ledger) -> None:
    cloud = ScriptedEngine()
    outgoing = EgressEngine(cloud, door=door(), ledger=ledger)
    with pytest.raises(EgressBlocked):
        await read(outgoing, ask("mine alone", privacy=Privacy.LOCAL_ONLY))
    assert cloud.requests == [] and outgoing.num_refused == 1
    assert not ledger.path.exists() or lines(ledger) == []


async def test_token_ids_are_stopped_since_no_rule_can_search_them() -> None:
    cloud = ScriptedEngine()
    outgoing = EgressEngine(cloud, door=door())
    with pytest.raises(EgressBlocked, match="send text"):
        await read(outgoing, Request(prompt_token_ids=(1, 2)))
    assert cloud.requests == [] and outgoing.num_withheld == 1


async def test_the_cloud_reads_placeholders_and_the_reader_the_originals() -> None:
    def echo(request: Request) -> Sequence[str]:
        return list(request.last_text())  # one character at a time: every placeholder is cut

    cloud = ScriptedEngine(script=echo)
    question = f"write to {MAIL}, pay with {CARD}, and answer {MAIL}"
    text, _ = await read(EgressEngine(cloud, door=door()), ask(question))
    sent = cloud.requests[0].last_text()
    assert sent == "write to [EMAIL_1], pay with [CARD_1], and answer [EMAIL_1]"
    assert text == question


async def test_a_value_keeps_its_placeholder_from_turn_to_turn() -> None:
    cloud = ScriptedEngine()
    outgoing = EgressEngine(cloud, door=door())
    first = Message(role="user", content=f"I am {MAIL}")
    await read(outgoing, Request(messages=(first,)))
    answer = Message(role="assistant", content=f"Hello {MAIL}")
    more = Message(role="user", content=f"and amy@example.org? not {MAIL}")
    await read(outgoing, Request(messages=(first, answer, more)))
    contents = [message.content for message in cloud.requests[1].messages]
    assert contents == ["I am [EMAIL_1]", "Hello [EMAIL_1]", "and [EMAIL_2]? not [EMAIL_1]"]
    assert cloud.requests[0].messages[0].content == contents[0]


async def test_a_blocked_kind_stops_the_text() -> None:
    cloud = ScriptedEngine()
    outgoing = EgressEngine(cloud, door=door(rules=Rules(card="block")))
    with pytest.raises(EgressBlocked, match="card"):
        await read(outgoing, ask(f"pay with {CARD}"))
    assert cloud.requests == [] and outgoing.num_withheld == 1


@pytest.mark.parametrize("agrees", [True, False])
async def test_a_kind_that_is_asked_for_leaves_only_with_a_yes(agrees: bool) -> None:
    asked: list[str] = []

    async def consent(request: Request) -> bool:
        asked.append(request.last_text())
        return agrees

    cloud = ScriptedEngine()
    outgoing = EgressEngine(cloud, door=door(rules=Rules(email="ask"), consent=consent))
    if agrees:
        await read(outgoing, ask(f"write to {MAIL}"))
        assert cloud.requests[0].last_text() == f"write to {MAIL}"
    else:
        with pytest.raises(EgressBlocked):
            await read(outgoing, ask(f"write to {MAIL}"))
        assert cloud.requests == []
    assert asked == [f"write to {MAIL}"]


async def test_what_leaves_is_in_the_ledger_before_the_cloud_is_asked(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite", keep_content=True)
    seen: list[LedgerEntry] = []

    def look(request: Request) -> Sequence[str]:
        seen.extend(lines(ledger))
        return ("ok",)

    outgoing = EgressEngine(ScriptedEngine(script=look), door=door(), ledger=ledger)
    async for _ in outgoing.within(EgressContext(reason="unsure")).generate(
        ask(f"write to {MAIL}")
    ):
        pass
    ledger.close()
    departure = seen[0].departure
    assert (departure.why, departure.endpoint) == ("unsure", "tcp://cloud:1")
    assert seen[0].back.state == "leaving" and departure.found == {"email redact": 1}
    assert "[EMAIL_1]" in (departure.content or "") and MAIL not in (departure.content or "")


async def test_the_ledger_keeps_no_text_unless_it_is_told_to(ledger: Ledger) -> None:
    await read(EgressEngine(ScriptedEngine(), door=door(), ledger=ledger), ask("a plain question"))
    assert lines(ledger)[0].departure.content is None
    for file in ledger.path.parent.iterdir():
        assert b"plain question" not in file.read_bytes()


async def test_bytes_tokens_and_cost_come_back_into_the_ledger(ledger: Ledger) -> None:
    usage = Usage(prompt_tokens=100, completion_tokens=50, bytes_sent=321, bytes_received=99)
    cloud = ScriptedEngine(finish=Finish(reason="stop", usage=usage))
    prices = Prices(price_in=1_000.0, price_out=2_000.0)
    outgoing = EgressEngine(cloud, door=door(prices=prices), ledger=ledger)
    _, finish = await read(outgoing, ask("hello"))
    back = lines(ledger)[0].back
    assert (back.state, back.bytes_sent, back.num_tokens) == ("answered", 321, 150)
    assert back.cost == finish.usage.cost == pytest.approx(0.2)


@pytest.mark.parametrize("sent", [0, 17])
async def test_bytes_are_counted_when_the_cloud_fails(ledger: Ledger, sent: int) -> None:
    error = CloudUnreachable("gone")
    error.bytes_sent = sent
    cloud = ScriptedEngine(error=error, error_before=2)
    with pytest.raises(CloudUnreachable):
        await read(EgressEngine(cloud, door=door(), ledger=ledger), ask("hello"))
    left = lines(ledger)[0]
    assert left.num_bytes == sent and left.back.state == "failed" and left.back.failure == "gone"


async def test_an_answer_left_early_counts_the_whole_text_as_sent(ledger: Ledger) -> None:
    stream = EgressEngine(ScriptedEngine(), door=door(), ledger=ledger).generate(ask("hello"))
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    left = lines(ledger)[0]
    assert left.back.state == "abandoned" and left.num_bytes == left.departure.num_bytes > 0


async def test_a_text_too_long_for_the_cloud_is_the_clouds_failure() -> None:
    cloud = ScriptedEngine(error=ContextLengthError(10, 5))
    with pytest.raises(LinkError, match="prompt has 10"):
        await read(EgressEngine(cloud, door=door()), ask("hello"))


async def test_a_text_that_no_cloud_could_read_is_not_even_searched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(egress_door, "clear", lambda *_: pytest.fail("it was searched"))
    cloud = ScriptedEngine()
    long = "x" * (CARD_OF_CLOUD.max_model_len * MAX_CHARS_PER_TOKEN + 1)
    with pytest.raises(LinkError, match="characters") as caught:
        await read(EgressEngine(cloud, door=door()), ask(long))
    assert caught.value.bytes_sent == 0 and cloud.requests == []


async def test_a_withheld_text_is_answered_near_and_the_reader_is_told() -> None:
    outgoing = EgressEngine(ScriptedEngine(), door=door(rules=Rules(email="block")))
    near = ScriptedEngine(["near"])
    hybrid = Hybrid(near, outgoing).forced("cloud")
    items = [item async for item in hybrid.generate(ask(f"write to {MAIL}"))]
    route = items[-1].route  # type: ignore[union-attr]
    assert route.served_by == "edge" and route.reason == "withheld" and "email" in route.failure
    assert route.sent_is_known


async def test_arguments_of_tools_are_redacted_and_stay_json() -> None:
    from offload.messages import ToolCall

    call = ToolCall(id="1", name="send", arguments='{"to": "bob@example.com", "n": 3}')
    cloud = ScriptedEngine()
    request = Request(
        messages=(
            Message(role="assistant", content="", tool_calls=(call,)),
            Message(role="tool", content="sent", tool_call_id="1"),
        ),
        tools=({"type": "function", "description": f"as {MAIL} does"},),
        answer_prefix=f"I wrote to {MAIL}",
    )
    await read(EgressEngine(cloud, door=door()), request)
    sent = cloud.requests[0]
    assert sent.messages[0].tool_calls[0].arguments == '{"to": "[EMAIL_1]", "n": 3}'
    assert MAIL not in str(sent)


async def test_an_original_is_escaped_where_the_answer_is_json() -> None:
    path = r"C:\Users\bob\notes.txt"
    cloud = ScriptedEngine(script=lambda request: ['{"file": "[PA', 'TH_1]"}'])
    request = ask(f"open {path}", sampling=Sampling(json_schema={"type": "object"}))
    text, _ = await read(EgressEngine(cloud, door=door(rules=Rules(path="redact"))), request)
    assert text == '{"file": "C:\\\\Users\\\\bob\\\\notes.txt"}'
