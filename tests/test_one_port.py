"""`nearfar serve --assistant`: page and OpenAI clients on one port, each with its key."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

ROOT = Path(__file__).parents[1]
KEY = "a-key-of-the-tests-long-enough"
QUESTION = {"model": "auto", "messages": [{"role": "user", "content": "What is 17 + 25?"}]}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    home = str(tmp_path_factory.mktemp("home"))
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "nearfar",
            "serve",
            "--assistant",
            "--offline",
            "--port",
            "0",
            "--json",
        ],
        cwd=ROOT,
        env={**os.environ, "NEARFAR_HOME": home, "NEARFAR_SERVE_API_KEYS": KEY},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    yield json.loads(server.stdout.readline())
    server.send_signal(signal.SIGTERM)
    assert server.wait() in (0, -signal.SIGTERM)
    server.stdout.close()


def test_openai_clients_are_answered_with_their_key(served: dict[str, str]) -> None:
    with openai.OpenAI(base_url=served["api"], api_key=KEY) as client:
        answer = client.chat.completions.create(**QUESTION)  # type: ignore[call-overload]
    assert answer.choices[0].message.content == "42"


def test_the_page_is_answered_with_its_token(served: dict[str, str]) -> None:
    base, _, token = served["url"].partition("/#token=")
    with httpx.Client(base_url=base) as http:
        assert "<title>nearfar</title>" in http.get("/").text
        headers = {"authorization": f"Bearer {token}"}
        assert http.get("/api/status", headers=headers).json()["model"]["name"]


def test_neither_key_opens_the_other_door(served: dict[str, str]) -> None:
    base, _, token = served["url"].partition("/#token=")
    with httpx.Client(base_url=base) as http:
        page, api = ({"authorization": f"Bearer {key}"} for key in (token, KEY))
        assert http.get("/api/status", headers=api).status_code == 401
        assert http.post("/v1/chat/completions", headers=page, json=QUESTION).status_code == 401
        assert http.get("/v1/models").status_code == 401


@pytest.mark.parametrize(
    "headers", [{"origin": "https://evil.example"}, {"host": "evil.example"}, {"origin": "null"}]
)
def test_other_pages_reach_neither(served: dict[str, str], headers: dict[str, str]) -> None:
    base = served["url"].partition("/#")[0]
    with httpx.Client(base_url=base, headers={"authorization": f"Bearer {KEY}", **headers}) as http:
        assert http.post("/v1/chat/completions", json=QUESTION).status_code == 403
        assert http.get("/").status_code == 403


def test_the_page_is_not_served_to_others() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nearfar", "serve", "--assistant", "--host", "0.0.0.0"],
        cwd=ROOT,
        env={**os.environ, "NEARFAR_SERVE_API_KEYS": KEY},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "leave --assistant out" in done.stderr
