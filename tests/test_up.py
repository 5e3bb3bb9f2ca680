"""`nearfar up`: one process for the page, OpenAI clients, and the person's own commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

ROOT = Path(__file__).parents[1]
QUESTION = "What is 17 + 25?"


def nearfar(home: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nearfar", *words],
        cwd=ROOT,
        env={**os.environ, "NEARFAR_HOME": home, "NEARFAR_POLICY_MIN_LOGPROB": "-0.5"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    home = str(tmp_path_factory.mktemp("home"))
    server = subprocess.Popen(
        [sys.executable, "-m", "nearfar", "up", "--offline", "--port", "0", "--json"],
        cwd=ROOT,
        env={**os.environ, "NEARFAR_HOME": home, "NEARFAR_EDGE_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    yield {**json.loads(server.stdout.readline()), "home": home}
    server.send_signal(signal.SIGTERM)
    assert server.wait() in (0, -signal.SIGTERM)
    server.stdout.close()
    assert not (Path(home) / "data" / "service" / "service.json").exists()


def test_one_line_tells_where_and_clients_need_no_key(service: dict[str, Any]) -> None:
    assert service["url"].endswith("/v1") and service["url"].startswith("http://127.0.0.1:")
    with openai.OpenAI(base_url=service["url"], api_key="any") as client:
        for name in ("auto", "embedded", "nearfar-edge"):
            answer = client.chat.completions.create(
                model=name, messages=[{"role": "user", "content": QUESTION}]
            )
            assert answer.choices[0].message.content == "42"
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(
                model="/etc/passwd", messages=[{"role": "user", "content": QUESTION}]
            )
        assert client.embeddings.create(model="embedded", input="x").data[0].embedding


def test_the_page_needs_its_token_and_others_are_kept_out(service: dict[str, Any]) -> None:
    base, _, token = service["page"].partition("/#token=")
    with httpx.Client(base_url=base) as http:
        assert "<title>nearfar</title>" in http.get("/").text
        assert http.get("/api/status").status_code == 401
        headers = {"authorization": f"Bearer {token}"}
        assert http.get("/api/status", headers=headers).json()["model"]
        body = {"model": "auto", "messages": [{"role": "user", "content": QUESTION}]}
        for wrong in ({"origin": "https://evil.example"}, {"host": "evil.example"}):
            assert http.post("/v1/chat/completions", json=body, headers=wrong).status_code == 403
        text = {"content-type": "text/plain"}
        sent = http.post("/v1/chat/completions", content=json.dumps(body), headers=text)
        assert sent.status_code == 415


def test_clients_of_ollama_are_answered_and_people_see_what_is_in_memory(
    service: dict[str, Any],
) -> None:
    with httpx.Client(base_url=service["ollama"], timeout=60) as http:
        sent = {"model": "embedded", "messages": [{"role": "user", "content": QUESTION}]}
        told = [json.loads(line) for line in http.post("/api/chat", json=sent).text.splitlines()]
        assert "".join(each["message"]["content"] for each in told) == "42"
        assert told[-1]["done"] and told[-1]["eval_count"] > 0
        assert http.get("/api/tags").json()["models"][0]["name"] == "nearfar-edge"
    rows = json.loads(nearfar(service["home"], "ps", "--json").stdout)
    assert [row["name"] for row in rows] == ["nearfar-edge"]
    assert nearfar(service["home"], "stop", "nearfar-edge").returncode == 0
    done = nearfar(service["home"], "ps")
    assert (done.returncode, done.stdout) == (0, "") and "no model is in memory" in done.stderr
    wrong = nearfar(service["home"], "stop", "nothing")
    assert wrong.returncode == 1 and "there is no model 'nothing'" in wrong.stderr


def test_ask_uses_it_and_a_second_one_is_refused(service: dict[str, Any]) -> None:
    done = nearfar(service["home"], "ask", QUESTION, "--offline")
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
    metrics = httpx.get(service["url"].removesuffix("/v1") + "/metrics").text
    assert 'path="/nearfar/generate",status="200"' in metrics
    told = json.loads(nearfar(service["home"], "doctor", "--json").stdout)["service"]
    assert service["url"].removesuffix("/v1") in told and "`chat` use its model" in told
    again = nearfar(service["home"], "up")
    assert again.returncode == 1 and "runs already" in again.stderr
