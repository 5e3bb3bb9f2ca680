"""A real server on a socket: who hangs up frees the engine, who dawdles stops nobody."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from offload.errors import SettingsError
from offload.messages import Delta
from serve.options import ServeOptions
from serve.server import run
from tests.offload.scripted import ScriptedEngine
from tests.serve.faces import ASK, CHAT, asked_chats, error_of, listening, openai_client


async def open_raw(url: str, body: dict[str, Any]) -> tuple[Any, Any]:
    """Send a request by hand, so that the connection can be cut at will."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    raw = json.dumps(body).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(raw)}\r\n\r\n"
    )
    writer.write(head.encode() + raw)
    await writer.drain()
    return reader, writer


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_frees_the_engine_at_once(stream: bool) -> None:
    engine = ScriptedEngine(hold=asyncio.Event())
    async with listening(engine) as server:
        _, writer = await open_raw(server.url, ASK | {"stream": stream, "n": 2})
        await engine.until(lambda: sum(engine.num_said[r.id] > 0 for r in asked_chats(engine)) == 2)
        asked = asked_chats(engine)
        writer.close()
        await engine.until(lambda: not any(r.id in engine.running for r in asked))
    assert {r.id for r in asked} <= set(engine.cancelled)


async def test_a_slow_reader_stops_nobody() -> None:
    text = "x" * 4096

    def script(request: Any) -> list[str]:
        return [text] * 4000 if request.last_text() == "flood" else ["quick"]

    engine = ScriptedEngine(script=script)
    flood = ASK | {"stream": True, "messages": [{"role": "user", "content": "flood"}]}
    async with listening(engine) as server:
        _, writer = await open_raw(server.url, flood)
        await engine.until(lambda: any(r.last_text() == "flood" for r in engine.requests))
        async with httpx.AsyncClient(timeout=60) as client:
            response = await client.post(server.url + CHAT, json=ASK)
        assert response.status_code == 200
        slow = next(r for r in engine.requests if r.last_text() == "flood")
        assert engine.num_said[slow.id] < 4000, "the engine waits for its reader"
        writer.close()
        await engine.until(lambda: slow.id not in engine.running)


async def test_an_engine_that_hangs_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.answer_streams._GRACE_S", 0.05)
    engine = ScriptedEngine(hold=asyncio.Event())
    options = ServeOptions(port=0, request_timeout_s=0.1)
    async with listening(engine, options) as server, httpx.AsyncClient(timeout=60) as client:
        whole = await client.post(server.url + CHAT, json=ASK)
        stream = await client.post(server.url + CHAT, json=ASK | {"stream": True})
    assert whole.status_code == 504 and error_of(whole)["code"] == "timeout"
    assert stream.status_code == 200 and '"code":"timeout"' in stream.text
    assert not engine.running


async def test_a_body_that_never_comes_is_given_up() -> None:
    options = ServeOptions(port=0, body_timeout_s=0.1)
    async with listening(ScriptedEngine(), options) as server:
        host, port = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            "Content-Length: 100\r\n\r\n{".encode()
        )
        assert b" 408 " in await asyncio.wait_for(reader.readline(), 60)
        writer.close()


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_too_large_is_refused_whether_announced_or_not(announced: bool) -> None:
    async def bomb() -> Any:
        for _ in range(64):
            yield b"[" * 1024

    engine = ScriptedEngine()
    options = ServeOptions(port=0, max_body_bytes=4096)
    content = b"[" * 65_536 if announced else bomb()
    async with listening(engine, options) as server, httpx.AsyncClient(timeout=60) as client:
        kind = {"content-type": "application/json"}
        response = await client.post(server.url + CHAT, content=content, headers=kind)
    assert response.status_code == 413 and error_of(response)


@pytest.mark.parametrize(("num_bytes", "status"), [(40_000, 431), (5_000_000, 400)])
async def test_a_header_bomb_is_refused(num_bytes: int, status: int) -> None:
    async with listening(ScriptedEngine()) as server:
        host, port = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET /health HTTP/1.1\r\nHost: {host}\r\nx-bomb: ".encode())
        writer.write(b"a" * num_bytes + b"\r\n\r\n")
        assert f" {status} ".encode() in await asyncio.wait_for(reader.readline(), 60)
        writer.close()
        async with httpx.AsyncClient(timeout=60) as client:
            assert (await client.get(server.url + "/health")).status_code == 200


async def test_a_stopped_server_lets_an_answer_end() -> None:
    hold = asyncio.Event()
    engine = ScriptedEngine(hold=hold)
    async with listening(engine) as server, httpx.AsyncClient(timeout=60) as client:
        asking = asyncio.create_task(client.post(server.url + CHAT, json=ASK))
        await engine.until(lambda: any(r.sampling.max_tokens > 1 for r in engine.requests))
        stopping = asyncio.create_task(server.aclose())
        hold.set()
        assert (await asking).status_code == 200
        await stopping


async def test_a_stopped_server_refuses_an_answer_not_yet_begun() -> None:
    engine = ScriptedEngine(hold=asyncio.Event())
    async with listening(engine) as server, httpx.AsyncClient(timeout=60) as client:
        asking = asyncio.create_task(client.post(server.url + CHAT, json=ASK))
        await engine.until(lambda: any(r.sampling.max_tokens > 1 for r in engine.requests))
        await server.aclose(goodbye_s=0)
        reply = await asking
    assert reply.status_code == 503
    assert error_of(reply)["code"] == "engine_stopped"


async def test_a_stopped_server_ends_a_begun_stream_with_one_error_event() -> None:
    engine = ScriptedEngine(hold=asyncio.Event())
    async with listening(engine) as server, httpx.AsyncClient(timeout=60) as client:
        asked = {**ASK, "stream": True}
        async with client.stream("POST", server.url + CHAT, json=asked) as reply:
            lines = reply.aiter_lines()
            await anext(lines)
            await server.aclose(goodbye_s=0)
            rest = [line async for line in lines if line]
    assert "being stopped" in rest[-1] and "[DONE]" not in "".join(rest)


async def test_a_port_in_use_is_told_with_its_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = ServeOptions(port=taken.getsockname()[1])
        with pytest.raises(SettingsError, match=r"choose another serve\.host or serve\.port"):
            await run(ScriptedEngine(), options=options)


async def test_run_serves_until_it_is_cancelled() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    engine = ScriptedEngine()
    running = asyncio.create_task(run(engine, options=ServeOptions(port=port)))
    await engine.until(lambda: bool(engine.requests))  # it has warmed up
    async with httpx.AsyncClient(timeout=60) as client:
        assert (await client.get(f"http://127.0.0.1:{port}/health")).status_code == 200
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_tls_by_files(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    options = ServeOptions(port=0, tls_cert=cert, tls_key=key)
    trust = ssl.create_default_context(cafile=str(cert))
    async with (
        listening(ScriptedEngine(), options) as server,
        httpx.AsyncClient(verify=trust, timeout=60) as client,
    ):
        assert server.url.startswith("https://")
        response = await client.post(server.url + CHAT, json=ASK)
    assert response.status_code == 200


async def test_a_damaged_certificate_is_told_with_its_remedy(tmp_path: Path) -> None:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("nothing")
    options = ServeOptions(port=0, tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem")
    with pytest.raises(SettingsError, match="name two PEM files"):
        await run(ScriptedEngine(), options=options)


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 by itself, made anew so that it never expires in the tree."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    made = subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "1", "-subj", "/CN=127.0.0.1", "-keyout", str(key)),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-out", str(cert)),
        ],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("openssl is not here to make a certificate")
    return cert, key


async def test_deltas_without_text_do_not_wake_the_client() -> None:
    engine = ScriptedEngine([Delta(token_ids=(1,)), Delta(text="a"), Delta(token_ids=(2,))])
    async with listening(engine) as server, openai_client(server.url) as client:
        stream = await client.chat.completions.create(
            model="scripted", messages=[{"role": "user", "content": "a"}], stream=True
        )
        texts = [chunk.choices[0].delta.content async for chunk in stream]
    assert texts == ["", "a", None]
