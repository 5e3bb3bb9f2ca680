"""Who may come in, and by which name they must call."""

from __future__ import annotations

from pathlib import Path

import pytest

from offload.asker import asker
from offload.config.settings import ServeSettings, Settings
from offload.errors import SettingsError
from offload.messages import Request
from serve.auth import ANYONE, Hosts, Keys
from serve.cli import options_from
from serve.options import ServeOptions
from tests.offload.scripted import ScriptedEngine
from tests.serve.faces import ASK, CHAT, error_of, near

KEY, OTHER = "a" * 32, "b" * 40
LOCKED = ServeOptions(api_keys=(KEY, OTHER))


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"Bearer {KEY}", 200),
        (f"bearer {OTHER}", 200),
        (f"Basic {KEY}", 401),
        (KEY, 401),
        ("Bearer", 401),
        ("Bearer \xff", 401),
        ("", 401),
    ],
)
async def test_only_a_key_opens_a_locked_door(authorization: str, status: int) -> None:
    engine = ScriptedEngine()
    headers = {"authorization": authorization.encode("latin-1")}
    async with near(engine, LOCKED) as client:
        response = await client.post(CHAT, json=ASK, headers=headers)  # type: ignore[arg-type]
    assert response.status_code == status
    assert bool(engine.requests) == (status == 200)


async def test_health_needs_no_key_and_metrics_do() -> None:
    async with near(ScriptedEngine(), LOCKED) as client:
        health, ready = await client.get("/health"), await client.get("/ready")
        metrics = await client.get("/metrics")
    assert (health.status_code, ready.status_code, metrics.status_code) == (200, 503, 401)
    assert error_of(metrics)["code"] == "invalid_api_key"


def test_a_part_of_a_key_is_no_key() -> None:
    keys = Keys([KEY])
    assert keys.owner(f"Bearer {KEY}") and keys.owner(f"Bearer {KEY[:-1]}") is None
    assert Keys([]).owner("") == ANYONE


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8080", 200),
        ("127.0.0.1", 200),
        ("[::1]:8080", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example:8080", 403),
        ("localhost:8080@evil.example", 403),
        ("", 403),
    ],
)
async def test_a_server_on_loopback_answers_only_to_the_names_of_loopback(
    host: str, status: int
) -> None:
    async with near(ScriptedEngine()) as client:
        response = await client.post(CHAT, json=ASK, headers={"host": host})
    assert response.status_code == status


def test_a_server_off_loopback_answers_to_the_names_it_was_given() -> None:
    anyone = Hosts(ServeOptions(host="0.0.0.0", api_keys=(KEY,)))
    named = Hosts(ServeOptions(host="0.0.0.0", api_keys=(KEY,), allowed_hosts=("Ai.Home",)))
    assert anyone.allow("whatever:1") and named.allow("ai.home:443")
    assert not named.allow("evil.example")


async def test_a_page_of_another_site_can_neither_post_nor_read() -> None:
    engine = ScriptedEngine()
    async with near(engine, headers={"origin": "http://evil.example"}) as client:
        plain = await client.post(CHAT, content=b"{}", headers={"content-type": "text/plain"})
        asked = await client.options(CHAT, headers={"access-control-request-method": "POST"})
    assert plain.status_code == 415 and asked.status_code == 405
    assert not any(name.startswith("access-control") for name in asked.headers)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com"])
def test_off_loopback_there_is_no_door_without_a_key(host: str) -> None:
    with pytest.raises(SettingsError, match=r"set serve\.api_keys, or listen on 127\.0\.0\.1"):
        ServeOptions(host=host)
    ServeOptions(host=host, api_keys=(KEY,))


def test_loopback_needs_no_key() -> None:
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        assert ServeOptions(host=host).is_loopback


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"port": 70_000}, "serve.port"),
        ({"max_body_bytes": 1}, "serve.max_body_bytes"),
        ({"max_choices": 0}, "serve.max_choices"),
        ({"request_timeout_s": float("nan")}, "serve.request_timeout_s"),
        ({"body_timeout_s": 0}, "serve.body_timeout_s"),
        ({"api_keys": ("short",)}, "serve.api_keys"),
        ({"tls_cert": Path("a.pem")}, "serve.tls_cert"),
        ({"tls_cert": Path("/none/a"), "tls_key": Path("/none/b")}, "serve.tls_cert"),
    ],
)
def test_a_wrong_option_is_named(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(SettingsError, match=named.replace(".", r"\.")):
        ServeOptions(**wrong)  # type: ignore[arg-type]


def test_keys_are_not_shown() -> None:
    assert KEY not in repr(LOCKED)


def test_a_key_may_have_a_name_and_another_has_its_digests() -> None:
    keys = Keys([f"alice:{KEY}", OTHER])
    assert keys.owner(f"Bearer {KEY}") == "alice"
    unnamed = keys.owner(f"Bearer {OTHER}")
    assert unnamed is not None and len(unnamed) == 8 and unnamed not in OTHER
    assert keys.owner(f"Bearer alice:{KEY}") is None


def test_a_named_key_must_be_long_enough_without_its_name() -> None:
    with pytest.raises(SettingsError, match="shorter than 16"):
        ServeOptions(api_keys=("a-rather-long-name:short",))


async def test_an_engine_knows_which_key_asks() -> None:
    """Else tenants would share what an engine keeps for each asker."""
    askers: list[str] = []

    def listen(_: Request) -> list[str]:
        askers.append(asker())
        return ["heard"]

    named = ServeOptions(api_keys=(f"alice:{KEY}", f"bob:{OTHER}"))
    async with near(ScriptedEngine(script=listen), named) as client:
        for key in (KEY, OTHER):
            await client.post(CHAT, json=ASK, headers={"authorization": f"Bearer {key}"})
    assert askers == ["http:alice", "http:bob"]


def test_keys_that_are_none_do_not_open_the_door_to_everybody() -> None:
    settings = Settings(serve=ServeSettings(api_keys=" , ,"))
    with pytest.raises(SettingsError, match="names no key"):
        options_from(settings, None, None)
