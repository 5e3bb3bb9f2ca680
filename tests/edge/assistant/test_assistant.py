"""The assistant's server: who is let in, what is kept, and that private means private."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from backbone.errors import CheckpointError
from backbone.files import SecretDamaged, atomic_write, make_private
from edge.assistant import engine_settings
from edge.assistant.access import MAX_BODY_BYTES, kept_token
from edge.assistant.app import PAGE, build_app
from edge.assistant.engine_settings import SettingsChange
from edge.near.factory import RunFlags
from offload.config.places import Places, places
from offload.config.settings import Settings
from offload.config.settings_sources import change_settings
from offload.engine import Engine
from offload.errors import CloudUnreachable, SettingsError
from offload.messages import Finish, Message, ModelCard, Request
from tests.edge.desks import TOKEN, Office, office, serving
from tests.offload.scripted import ScriptedEngine

BASE = "http://127.0.0.1:8089"
KEY = {"authorization": f"Bearer {TOKEN}"}


def client(opened: Office, **headers: str) -> httpx.AsyncClient:
    app = build_app(opened.assistant, opened.store, opened.answers, token=TOKEN)
    transport = httpx.ASGITransport(app=app)
    return httpx.AsyncClient(transport=transport, base_url=BASE, headers={**KEY, **headers})


def shown_of(status: httpx.Response) -> dict[str, Any]:
    """What the page shows, but for the memory in use."""
    return {name: value for name, value in status.json().items() if name != "memory_bytes"}


async def ask(http: httpx.AsyncClient, text: str, **said: Any) -> tuple[str, list[dict[str, Any]]]:
    """Begin a conversation, ask, and return its id and the events of the answer."""
    talk = (await http.post("/api/conversations", json={})).json()["id"]
    asked = await http.post(f"/api/conversations/{talk}/ask", json={"text": text, **said})
    assert asked.status_code == 202, asked.text
    return talk, await events(http, talk)


async def events(http: httpx.AsyncClient, talk: str) -> list[dict[str, Any]]:
    stream = await http.get(f"/api/conversations/{talk}/stream")
    lines = [line for line in stream.text.split("\n\n") if line]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def test_a_question_is_answered_kept_and_explained() -> None:
    async with client(office()) as http:
        talk, told = await ask(http, "hello?")
        assert "".join(event.get("text", "") for event in told) == "near answer"
        assert told[-1]["type"] == "finish" and "nothing sent" in told[-1]["why"]
        kept = (await http.get(f"/api/conversations/{talk}")).json()
        assert [turn["content"] for turn in kept["turns"]] == ["hello?", "near answer"]
        assert kept["turns"][1]["finish"]["route"]["served_by"] == "edge"


async def test_an_answer_goes_on_without_a_watcher_and_can_be_joined_midway() -> None:
    hold = asyncio.Event()
    opened = office(ScriptedEngine(("one", " two", " three"), hold=hold, hold_before=2))
    async with client(opened) as http:
        talk = (await http.post("/api/conversations", json={})).json()["id"]
        await http.post(f"/api/conversations/{talk}/ask", json={"text": "count"})
        await opened.near.until(lambda: sum(opened.near.num_said.values()) == 2)
        follow = opened.answers.follow(talk)
        assert (await anext(follow))["text"] == "one two"
        again = await http.post(f"/api/conversations/{talk}/ask", json={"text": "more"})
        assert again.status_code == 400 and "stop it first" in again.json()["error"]
        hold.set()
        assert (await anext(follow))["text"] == " three"
        assert (await anext(follow))["type"] == "finish"


async def test_a_stopped_answer_is_kept() -> None:
    opened = office(ScriptedEngine(("one", " two"), hold=asyncio.Event(), hold_before=1))
    async with client(opened) as http:
        talk = (await http.post("/api/conversations", json={})).json()["id"]
        await http.post(f"/api/conversations/{talk}/ask", json={"text": "count"})
        await opened.near.until(lambda: sum(opened.near.num_said.values()) == 1)
        await http.post(f"/api/conversations/{talk}/stop", json={})
        turn = (await http.get(f"/api/conversations/{talk}")).json()["turns"][1]
        assert (turn["content"], turn["state"]) == ("one", "stopped")


async def test_consent_is_asked_of_the_page_and_private_closes_the_link() -> None:
    opened = office(forced="cloud")
    async with client(opened) as http:
        talk = (await http.post("/api/conversations", json={})).json()["id"]
        await http.post(f"/api/conversations/{talk}/ask", json={"text": "hello"})
        follow = opened.answers.follow(talk)
        asked = [await anext(follow), await anext(follow)][-1]
        assert asked["type"] == "consent" and asked["num_bytes"] == 5 and not asked["blocked"]
        assert [list(turn["pieces"]) for turn in asked["turns"]] == [[{"text": "hello"}]]
        assert opened.far.requests == []
        await http.post(f"/api/conversations/{talk}/consent", json={"reply": "conversation"})
        assert (await anext(follow)) == {"type": "consented"}  # for a page in another tab
        assert (await anext(follow))["text"] == "far "
        assert [event async for event in follow][-1]["why"].startswith("far")

        status = (await http.patch("/api/settings", json={"private": True})).json()
        assert status["private"] and status["link"] == "no far model"
        _, told = await ask(http, "secret", side="cloud")
        assert told[-1]["finish"]["route"]["reason"] == "local_only"
        assert len(opened.far.requests) == 1
    assert 'privacy = "local_only"' in places().config_file.read_text()


async def test_where_nobody_watches_nothing_is_said() -> None:
    opened = office(forced="cloud")
    talk = opened.store.begin()
    opened.store.ask(talk, "hello")
    request = Request(messages=(Message(role="user", content="hello"),), session=talk)
    assert await opened.answers.consent(request) == "nobody"


async def test_never_holds_at_once_and_for_the_texts_of_programs_too() -> None:
    opened = office(forced="cloud")
    async with client(opened) as http:
        await http.patch("/api/settings", json={"private": False})
        talk = opened.store.begin()
        await http.post(f"/api/conversations/{talk}/ask", json={"text": "the vault opens at 4711"})
        await asyncio.sleep(0)
        await http.post(f"/api/conversations/{talk}/consent", json={"reply": "never"})
        await events(http, talk)
        assert (await http.get("/api/status")).json()["private"]
        program = Request(messages=(Message(role="user", content="of a program"),))
        *_, finish = [item async for item in opened.assistant.current.generate(program)]
        assert isinstance(finish, Finish) and finish.route is not None
        assert finish.route.reason == "local_only" and not opened.far.requests
        await http.patch("/api/settings", json={"private": False})
        await http.post(f"/api/conversations/{talk}/ask", json={})  # the same question anew
        await events(http, talk)
        assert not opened.far.requests
        (asked, *_) = (await http.get(f"/api/conversations/{talk}")).json()["turns"]
        assert (asked["content"], asked["privacy"]) == ("the vault opens at 4711", "local_only")


async def test_a_question_that_was_written_while_private_stays() -> None:
    opened = office(forced="cloud")
    change_settings(places().config_file, "policy", {"privacy": "cloud_ok"})
    async with client(opened) as http:
        talk = opened.store.begin()
        draft = {"text": "written before", "private": True}
        await http.post(f"/api/conversations/{talk}/ask", json=draft)
        await events(http, talk)
        assert not opened.far.requests
        await http.post(f"/api/conversations/{talk}/ask", json={"text": "open"})
        await events(http, talk)
        assert [each.content for each in opened.far.requests[0].messages] == ["open"]


async def test_retrying_adds_a_version_by_the_side_that_was_chosen() -> None:
    async with client(office()) as http:
        await http.patch("/api/settings", json={"private": False})
        talk, _ = await ask(http, "hello?")
        await http.post(f"/api/conversations/{talk}/ask", json={"side": "cloud"})
        await asyncio.sleep(0)
        await http.post(f"/api/conversations/{talk}/consent", json={"reply": "once"})
        await events(http, talk)
        kept = (await http.get(f"/api/conversations/{talk}")).json()["turns"]
        assert [turn["content"] for turn in kept] == ["hello?", "far answer"]
        versions = kept[1]["versions"]
        assert len(versions) == 2 and versions[1] == kept[1]["id"]
        await http.post(f"/api/conversations/{talk}/version", json={"turn": versions[0]})
        kept = (await http.get(f"/api/conversations/{talk}")).json()["turns"]
        assert [turn["content"] for turn in kept] == ["hello?", "near answer"]


async def test_a_stale_retry_far_changes_nothing_while_nothing_may_leave() -> None:
    opened = office()
    async with client(opened) as http:
        await http.patch("/api/settings", json={"private": False})
        talk, _ = await ask(http, "hello?")
        await http.patch("/api/settings", json={"private": True})
        again = await http.post(f"/api/conversations/{talk}/ask", json={"side": "cloud"})
        assert again.status_code == 400 and "no far model" in again.json()["error"]
        kept = (await http.get(f"/api/conversations/{talk}")).json()["turns"]
        assert [turn["content"] for turn in kept] == ["hello?", "near answer"]
        assert kept[1]["versions"] == []


@pytest.mark.parametrize("turn", [-1, 2**63, 2**64])
async def test_a_turn_that_cannot_be_is_refused(turn: int) -> None:
    async with client(office()) as http:
        talk, _ = await ask(http, "hello?")
        body = {"text": "hi", "edits": turn}
        for path, sent in (("ask", body), ("version", {"turn": turn})):
            refused = await http.post(f"/api/conversations/{talk}/{path}", json=sent)
            assert refused.status_code == 400, refused.text


async def test_a_question_that_is_changed_begins_a_version_of_its_own() -> None:
    async with client(office()) as http:
        talk, _ = await ask(http, "wrogn")
        (first, _) = (await http.get(f"/api/conversations/{talk}")).json()["turns"]
        body = {"text": "right", "edits": first["id"]}
        await http.post(f"/api/conversations/{talk}/ask", json=body)
        await events(http, talk)
        whole = (await http.get(f"/api/conversations/{talk}")).json()
        assert [turn["content"] for turn in whole["turns"]] == ["right", "near answer"]
        assert len(whole["turns"][0]["versions"]) == 2
        exported = (await http.get(f"/api/conversations/{talk}/export")).text
        assert "version 2 of 2" in exported and "wrogn" in exported.split("# Other versions")[1]


async def test_a_stopped_answer_goes_on_behind_what_there_is_of_it() -> None:
    hold = asyncio.Event()
    near = ScriptedEngine(("one ", "two "), hold=hold, hold_before=1)
    async with client(opened := office(near)) as http:
        talk = (await http.post("/api/conversations", json={})).json()["id"]
        await http.post(f"/api/conversations/{talk}/ask", json={"text": "count"})
        await near.until(lambda: bool(near.num_said))
        await http.post(f"/api/conversations/{talk}/stop", json={})
        (_, turn) = (await http.get(f"/api/conversations/{talk}")).json()["turns"]
        assert (turn["content"], turn["can_go_on"]) == ("one ", True)
        hold.set()
        await http.post(f"/api/conversations/{talk}/ask", json={"resume": True})
        assert (await events(http, talk))[-1]["type"] == "finish"
        assert near.requests[-1].answer_prefix == "one "
        assert [each.role for each in near.requests[-1].messages] == ["user"]
        (_, turn) = (await http.get(f"/api/conversations/{talk}")).json()["turns"]
        assert (turn["content"], turn["state"]) == ("one one two ", "whole")
        assert opened.store.search("one one two")
        refused = await http.post(f"/api/conversations/{talk}/ask", json={"resume": True})
        assert refused.status_code == 400


async def test_what_was_deleted_comes_back_or_is_erased() -> None:
    async with client(opened := office()) as http:
        talk, _ = await ask(http, "all about zebras")
        await http.delete(f"/api/conversations/{talk}")
        assert (await http.get("/api/conversations")).json() == []
        assert opened.store.search("zebras") == [] and opened.store.questions() == []
        await http.post(f"/api/conversations/{talk}/restore", json={})
        assert (await http.get(f"/api/conversations/{talk}")).json()["turns"]
        await http.delete(f"/api/conversations/{talk}")
        assert opened.store.trash.expired() == []
        assert opened.store.trash.expired(kept_s=0.0) == [talk]
        opened.store.delete(talk)
        gone = await http.post(f"/api/conversations/{talk}/restore", json={})
        assert gone.status_code == 400


async def test_a_fallen_link_is_told_and_answered_near() -> None:
    gone = ScriptedEngine(error=CloudUnreachable("the cloud is gone; try later"))
    opened = office(far=gone, forced="cloud")
    change_settings(places().config_file, "policy", {"privacy": "cloud_ok"})
    async with client(opened) as http:
        _, told = await ask(http, "hello")
        assert told[-1]["finish"]["route"]["served_by"] == "edge"
        assert any("the cloud is gone" in remark for remark in told[-1]["remarks"])


async def test_conversations_are_found_renamed_exported_and_deleted() -> None:
    async with client(office()) as http:
        talk, _ = await ask(http, "all about zebras")
        hits = (await http.get("/api/conversations", params={"q": "zebra"})).json()
        assert [hit["heading"]["id"] for hit in hits] == [talk]
        await http.patch(f"/api/conversations/{talk}", json={"title": "Stripes"})
        exported = await http.get(f"/api/conversations/{talk}/export")
        assert exported.text.startswith("# Stripes")
        assert (await http.get(f"/api/conversations/{talk}/export?form=json")).json()["turns"]
        await http.delete(f"/api/conversations/{talk}")
        assert (await http.get("/api/conversations")).json() == []
        assert (await http.get(f"/api/conversations/{talk}")).status_code == 400


async def test_settings_are_kept_and_wrong_ones_change_nothing() -> None:
    async with client(office()) as http:
        status = (await http.patch("/api/settings", json={"window": 512})).json()
        assert status["window"] == 512
        assert "window = 512" in places().config_file.read_text()
        for wrong in ({"window": -7}, {"model": ""}, {"nonsense": 1}, {"window": "many"}):
            answer = await http.patch("/api/settings", json=wrong)
            assert answer.status_code == 400 and answer.json()["error"]
        assert (await http.get("/api/status")).json()["window"] == 512


async def test_a_page_that_looks_while_the_engine_is_exchanged_asks_no_closed_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened, made = office(), threading.Event()
    make = opened.assistant._make

    def waits() -> Engine:
        made.wait(10)
        return make()

    def closed() -> ModelCard:
        raise AssertionError("it is closed")

    monkeypatch.setattr(opened.assistant, "_make", waits)
    async with client(opened) as http:
        before = shown_of(await http.get("/api/status"))
        renewed = asyncio.create_task(opened.assistant.reload_clouds())
        await asyncio.sleep(0)
        monkeypatch.setattr(opened.assistant.engine, "card", closed)
        assert shown_of(await http.get("/api/status")) == before
        made.set()
        await renewed
        assert shown_of(await http.get("/api/status")) == before


async def test_after_a_file_that_is_no_model_the_engine_is_opened_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (file := tmp_path / "notes.gguf").write_text("no model")
    opened = office()
    make = opened.assistant._make

    def refuses() -> Engine:
        if opened.assistant.settings.edge.model == str(file):
            raise CheckpointError(f"{file} is not a GGUF file")
        return make()

    def closed() -> ModelCard:
        raise AssertionError("it is closed")

    monkeypatch.setattr(opened.assistant, "_make", refuses)
    async with client(opened) as http:
        before, first = shown_of(await http.get("/api/status")), opened.assistant.engine
        close = first.aclose

        async def ends() -> None:
            await close()
            monkeypatch.setattr(first, "card", closed)

        monkeypatch.setattr(first, "aclose", ends)
        said = await http.patch("/api/settings", json={"model": str(file)})
        assert said.status_code == 400 and "is not a GGUF file" in said.text
        assert opened.assistant.engine is not first
        assert shown_of(await http.get("/api/status"))["model"] == before["model"]


@pytest.mark.parametrize(
    "wrong",
    [{"window": 2**70}, {"window": -(2**70)}, {"model": "m" * 5000}, {"model": "~nobody"}],
)
async def test_a_setting_no_model_can_have_leaves_the_old_engine_running(
    wrong: dict[str, Any],
) -> None:
    async with client(office()) as http:
        before = shown_of(await http.get("/api/status"))
        answer = await http.patch("/api/settings", json=wrong)
        assert answer.status_code == 400 and answer.json()["error"]
        assert shown_of(await http.get("/api/status")) == before
        _, told = await ask(http, "are you there?")
        assert told[-1]["type"] == "finish"


async def test_a_model_that_cannot_be_opened_is_rolled_back_whatever_it_raises() -> None:
    opened = office()
    make = opened.assistant.open_engine

    def breaks(settings: Settings, here: Places, choice: RunFlags) -> Engine:
        if settings.edge.window == 64:
            raise OverflowError("no llama.cpp can count so far")
        return make(settings, here, choice)

    opened.assistant.open_engine = breaks
    before = opened.assistant.settings
    with pytest.raises(OverflowError):
        await opened.assistant.change(SettingsChange(window=64))
    assert opened.assistant.settings is before
    assert not places().config_file.exists()
    async with client(opened) as http:
        assert (await ask(http, "are you there?"))[1][-1]["type"] == "finish"


async def test_a_switch_that_could_not_be_kept_is_not_in_force(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SettingsError("the disk is full; free some")

    opened = office(forced="cloud")
    monkeypatch.setattr(engine_settings, "change_settings", full)
    async with client(opened) as http:
        before = shown_of(await http.get("/api/status"))
        answer = await http.patch("/api/settings", json={"private": not before["private"]})
        assert answer.status_code == 400 and "is full" in answer.json()["error"]
        assert shown_of(await http.get("/api/status")) == before


@pytest.mark.parametrize("body", [b'{"text": "\xff\xfe"}', b"[" * 100_000, b"\x00", b"{"])
async def test_a_body_that_is_no_json_is_the_callers_fault(body: bytes) -> None:
    async with client(office()) as http:
        talk = (await http.post("/api/conversations", json={})).json()["id"]
        answer = await http.post(f"/api/conversations/{talk}/ask", content=body)
        assert answer.status_code == 400 and answer.json()["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:8089"}, 200),
        ({"origin": BASE}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example:8089"}, 403),
        ({"host": ""}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"authorization": ""}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"content-length": str(MAX_BODY_BYTES + 1)}, 413),
        ({"content-length": "many"}, 411),
    ],
)
async def test_only_this_machine_with_the_token_is_let_in(
    headers: dict[str, str], status: int
) -> None:
    async with client(office(), **headers) as http:
        answer = await http.get("/api/status")
        assert answer.status_code == status
        assert "error" in answer.json() or status == 200


async def test_every_answer_binds_the_page() -> None:
    async with client(office()) as http:
        for path in ("/", "/page/app.js", "/api/status", "/nowhere", "/worker.js"):
            policy = (await http.get(path)).headers["content-security-policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize("path", sorted(PAGE.iterdir()), ids=lambda path: path.name)
def test_the_page_names_no_other_server_and_makes_no_markup_of_text(path: Path) -> None:
    text = path.read_text()
    assert set(re.findall(r"https?://[\w.]+", text)) <= {"http://www.w3.org"}
    assert "innerHTML" not in text and "eval(" not in text


async def test_nothing_outside_the_page_is_served() -> None:
    async with (
        serving(office()) as opened,
        httpx.AsyncClient(base_url=opened.url, timeout=60) as http,
    ):
        for path in ("/page/../app.py", "/page/%2e%2e/door.py", "/page/..%2fdoor.py"):
            answer = await http.get(path)
            assert answer.status_code == 404 and "import" not in answer.text


def test_the_token_is_made_once_and_private() -> None:
    path = places().keys / "assistant.token"
    first = kept_token(path)
    assert len(first) >= 32 and kept_token(path) == first
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("kept", [b"", b"\n", b"short", b"x" * 31, b"with a space " * 4])
def test_a_token_that_is_empty_or_cut_short_starts_no_assistant(kept: bytes) -> None:
    path = places().keys / "assistant.token"
    make_private(path.parent)
    atomic_write(path, kept)
    with pytest.raises(SecretDamaged, match=r"assistant\.token is damaged; delete it"):
        kept_token(path)
