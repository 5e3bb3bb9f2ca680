"""The page's server speaks Chinese where it is asked to, and no sentence of it is forgotten."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import itertools
import pkgutil
import re
from pathlib import Path

import httpx
import pytest

import edge
import offload
from backbone.errors import NearfarError
from edge.assistant.app import build_app
from edge.assistant.language import chinese, speaks_chinese, table, told_of
from edge.assistant.running_answers import finish_event
from edge.chat.status_line import link
from edge.conversations.store import Conversations
from offload.errors import CloudUnreachable, RequestError
from offload.hybrid.hybrid import Hybrid
from offload.link.health import CloudSnapshot, LinkHealth
from offload.messages import Finish, Route, Usage
from offload.reasons import REASONS
from tests.edge.desks import TOKEN, office
from tests.offload.scripted import ScriptedEngine

EDGE = Path(edge.__file__ or "").parent
ROOM = [
    *(
        EDGE / "assistant" / name
        for name in ("running_answers.py", "app.py", "engine_settings.py", "access.py")
    ),
    EDGE / "conversations" / "store.py",
    EDGE / "chat" / "dialogue.py",
]


def is_chinese(text: str | None) -> bool:
    return text is not None and re.search("[\u4e00-\u9fff]", text) is not None


def test_every_reason_has_its_sentence() -> None:
    assert [words for words in REASONS.values() if not is_chinese(chinese(words))] == []


@pytest.mark.parametrize("served_by", ["edge", "cloud"])
@pytest.mark.parametrize("num_bytes", [0, 1234])
@pytest.mark.parametrize("failure", [None, "nothing answers at ipc://x; start the server"])
@pytest.mark.parametrize("sent_is_known", [None, True, False])
def test_all_that_is_told_of_an_answer_is_told_in_chinese(
    served_by: str, num_bytes: int, failure: str | None, sent_is_known: bool | None
) -> None:
    endings, confidences = ("stop", "length", "deadline"), (0.87, 0.7, 0.3)
    for reason, ending, confidence in itertools.product(REASONS, endings, confidences):
        route = Route(
            served_by=served_by,  # type: ignore[arg-type]
            reason=reason,
            confidence=confidence,
            failure=failure,
            sent_is_known=sent_is_known,
        )
        usage = Usage(
            completion_tokens=12,
            prefill_s=0.1,
            decode_s=0.4,
            bytes_sent=num_bytes,
            num_replaced=2,
        )
        finish = Finish(reason=ending, route=route, usage=usage, dropped_tokens=3)  # type: ignore[arg-type]
        said = finish_event(finish)
        for sentence in (said["why"], said["reason"], *said["remarks"]):
            assert is_chinese(chinese(sentence)), sentence


class Linked(ScriptedEngine):
    def __init__(self, health: LinkHealth) -> None:
        super().__init__()
        self._health = health

    def health(self) -> LinkHealth:
        return self._health

    def snapshot(self) -> CloudSnapshot:
        return CloudSnapshot(healthy=self._health.rtt_s is None)


def health(*, alive: bool, rtt_s: float | None) -> LinkHealth:
    return LinkHealth(
        alive=alive,
        rtt_s=rtt_s,
        in_flight=0,
        cloud_in_flight=0,
        clock_offset_s=None,
        bytes_sent=0,
        bytes_received=0,
    )


def test_every_state_of_the_link_has_its_words() -> None:
    near = ScriptedEngine()
    clouds = [
        None,
        ScriptedEngine(),
        *(
            Linked(health(alive=alive, rtt_s=rtt))
            for alive in (False, True)
            for rtt in (None, 0.012)
        ),
    ]
    words = {link(Hybrid(near, cloud)) for cloud in clouds}
    assert len(words) == 5 and all(is_chinese(chinese(each)) for each in words)
    assert chinese("far 12 ms") == "\u4e91\u7aef 12 \u6beb\u79d2"


@pytest.mark.parametrize("path", ROOM, ids=lambda path: path.name)
def test_every_error_of_the_room_is_in_the_table(path: Path) -> None:
    forgotten = [each for each in sentences(path) if not is_chinese(chinese(each))]
    assert forgotten == []


def sentences(path: Path) -> list[str]:
    """Return what a module tells a person where it raises, its values as 7."""
    calls = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            calls.append(node.exc.args[:1])
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "refuse":
            calls.append(node.args[1:2])
    found = [_template(args[0]) for args in calls if args]
    # Where a variable tells how a sentence begins, a test of its own looks at each way.
    return [each for each in found if each and not each.startswith("7 with 7")]


def _template(node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        parts = [each.value if isinstance(each, ast.Constant) else "7" for each in node.values]
        return "".join(str(each) for each in parts)
    return None


def test_every_kind_of_error_has_its_sentence() -> None:
    for room in (edge, offload):
        for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            if _declares_an_error(module.name):
                importlib.import_module(module.name)
    kinds = [NearfarError, *_below(NearfarError)]
    rooms = ("backbone.errors", "offload.", "edge.")
    ours = {each.__name__ for each in kinds if each.__module__.startswith(rooms)}
    assert len(ours) > 15 and ours <= set(table().kinds)


def _declares_an_error(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    return re.search(r"^class \w+\(\w*(Error|Refused|Unreachable|Failed)", source, re.M) is not None


def _below(kind: type[Exception]) -> list[type[Exception]]:
    direct = kind.__subclasses__()
    return [*direct, *(each for one in direct for each in _below(one))]


def test_what_is_not_in_the_table_keeps_its_words_behind_its_kind() -> None:
    error = CloudUnreachable("a sentence that nobody has translated")
    assert str(error) in told_of(error, in_chinese=True)
    assert is_chinese(told_of(error, in_chinese=True).partition("a sentence")[0])
    assert told_of(error, in_chinese=False) == str(error)


def test_the_two_ways_not_to_find_a_conversation_are_in_the_table() -> None:
    store = Conversations()
    for _ in range(17):  # of 16 first letters one comes twice
        store.begin()
    first = [heading.id[0] for heading in store.headings()]
    found = set()
    for name in ("zz", next(each for each in first if first.count(each) > 1)):
        with pytest.raises(RequestError) as error:
            store.find(name)
        found.add(chinese(str(error.value)))
    assert len(found) == 2 and all(is_chinese(each) for each in found)


def test_a_sentence_may_carry_another() -> None:
    inner = RequestError("the title is empty; write one")
    whole = chinese(f"the far model could not answer: {inner}") or ""
    assert "title" not in whole and is_chinese(whole)


@pytest.mark.parametrize(
    ("accepted", "is_zh"),
    [("zh", True), ("zh-CN,zh;q=0.9,en", True), ("en-US,zh", False), ("", False)],
)
def test_the_first_language_decides(accepted: str, is_zh: bool) -> None:
    assert speaks_chinese(accepted) is is_zh


async def test_refusals_come_in_the_language_of_the_page() -> None:
    opened = office()
    app = build_app(opened.assistant, opened.store, opened.answers, token=TOKEN)
    headers = {"accept-language": "zh", "authorization": f"Bearer {TOKEN}"}
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://127.0.0.1:1", headers=headers
    ) as http:
        assert is_chinese((await http.get("/api/status")).json()["link"])
        assert is_chinese((await http.get("/api/conversations/none")).json()["error"])
        assert is_chinese((await http.patch("/api/settings", json={"window": -7})).json()["error"])
        locked = await http.get("/api/status", headers={"authorization": ""})
        assert locked.status_code == 401 and is_chinese(locked.json()["error"])
