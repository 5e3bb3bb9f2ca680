"""A llama-server as the near engine: its answers, how sure it was, and what it cannot do."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from edge.near.factory import RunFlags, open_hybrid
from edge.near.llama_server import LlamaServerEngine
from offload.config.places import places
from offload.config.settings import EdgeSettings, Settings
from offload.errors import EngineStopped, SettingsError, Unsupported
from offload.messages import Delta, Finish, Message, Privacy, Request, Sampling
from offload.pair import EDGE_MODEL

ROOT = Path(__file__).parents[3]
ASK = Request(
    messages=(Message(role="user", content="What is the capital of France?"),),
    sampling=Sampling(max_tokens=16),
    privacy=Privacy.LOCAL_ONLY,
)


class Recorded(BaseHTTPRequestHandler):
    """What a llama-server said once, to /v1/models and a chat of two tokens."""

    asked: list[dict[str, Any]]

    def do_GET(self) -> None:
        meta = {"n_ctx_train": 32768, "n_params": 494032768, "size": 485452288, "vocab_type": 2}
        row = {"id": "/models/qwen.gguf", "object": "model", "owned_by": "llamacpp", "meta": meta}
        self._send(json.dumps({"object": "list", "data": [row]}).encode(), "application/json")

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        self.asked.append(json.loads(self.rfile.read(length)))
        said = [("Par", math.log(0.5), math.log(0.25)), ("is", math.log(0.9), math.log(0.05))]
        events = [_event(text, best, next_) for text, best, next_ in said]
        end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        usage = {"choices": [], "usage": {"prompt_tokens": 30, "completion_tokens": 2}}
        lines = [*(json.dumps(each) for each in (*events, end, usage)), "[DONE]"]
        self._send("".join(f"data: {line}\n\n" for line in lines).encode(), "text/event-stream")

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _event(text: str, best: float, second: float) -> dict[str, Any]:
    top = [{"id": 1, "token": text, "logprob": best}, {"id": 2, "token": "x", "logprob": second}]
    told = {"id": 1, "token": text, "bytes": list(text.encode()), "logprob": best}
    logprobs = {"content": [{**told, "top_logprobs": top}]}
    delta = {"index": 0, "delta": {"content": text}, "logprobs": logprobs, "finish_reason": None}
    return {"object": "chat.completion.chunk", "choices": [delta]}


@pytest.fixture
def recorded() -> Iterator[str]:
    Recorded.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Recorded)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


async def test_its_log_probabilities_are_the_confidence_of_its_tokens(recorded: str) -> None:
    async with aclosing(LlamaServerEngine(recorded)) as engine:
        card = engine.card()
        assert (card.name, card.runtime, card.max_model_len) == ("qwen", "llama-server", 32768)
        items = [item async for item in engine.generate(ASK)]
    sure = [one for item in items if isinstance(item, Delta) for one in item.confidence]
    assert [round(math.exp(one.logprob), 3) for one in sure] == [0.5, 0.9]
    assert [round(one.margin, 6) for one in sure] == [
        round(math.log(2), 6),
        round(math.log(18), 6),
    ]
    shares = (0.5, 0.25, 0.25)  # what is not told counts as one token more
    assert sure[0].entropy == pytest.approx(-sum(p * math.log(p) for p in shares))
    body = Recorded.asked[0]
    assert body["logprobs"] is True and body["top_logprobs"] == 20


async def test_the_policy_reads_it_as_the_near_side(recorded: str) -> None:
    settings = Settings(edge=EdgeSettings(server=recorded))
    hybrid = open_hybrid(settings, places(), RunFlags(offline=True))
    async with aclosing(hybrid):
        items = [item async for item in hybrid.generate(ASK)]
    assert "".join(item.text for item in items if isinstance(item, Delta)) == "Paris"
    finish = items[-1]
    assert isinstance(finish, Finish) and finish.route is not None
    assert finish.route.served_by == "edge" and finish.usage.completion_tokens == 2


async def test_what_it_cannot_do_and_that_it_is_gone_are_one_line(recorded: str) -> None:
    async with aclosing(LlamaServerEngine(f"{recorded}/v1")) as engine:
        with pytest.raises(Unsupported, match=r"llama\.cpp server"):
            wish = Request(prompt="a", suffix="b")
            async for _ in engine.generate(wish):
                pass
    with pytest.raises(EngineStopped, match=r"edge\.server .* start it, or take the setting out"):
        LlamaServerEngine("http://127.0.0.1:9")
    for address in ("http://gpu:8081", "http://10.0.0.1:8081", "tcp://127.0.0.1:1", "x"):
        with pytest.raises(SettingsError, match="address of this machine"):
            EdgeSettings(server=address)


async def test_llama_cpps_own_server_answers_near(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp.server.app", reason="the server's packages are not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.offload.llama_server", "--model", str(EDGE_MODEL)]
    command += ["--port", str(port), "--n_threads", "1", "--n_ctx", "512", "--logits_all", "true"]
    server = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while True:
            assert server.poll() is None, "the server ended while it started"
            try:
                engine = LlamaServerEngine(f"http://127.0.0.1:{port}")
                break
            except EngineStopped:
                await asyncio.sleep(0.2)
        async with aclosing(engine):
            items = [item async for item in engine.generate(ASK)]
        deltas = [item for item in items if isinstance(item, Delta)]
        assert "Paris" in "".join(each.text for each in deltas)
        finish = items[-1]
        assert isinstance(finish, Finish)
        num_told = sum(len(each.confidence) for each in deltas)
        assert num_told == finish.usage.completion_tokens > 0, "it tells no usage itself"
    finally:
        server.terminate()
        server.wait(60)


def test_without_llama_cpp_one_line_names_the_ways_out() -> None:
    code = (
        "import sys, importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'llama_cpp' else find(name, *a)\n"
        "sys.argv = ['nearfar', 'ask', 'hi', '--offline']; import nearfar; nearfar.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, stdin=-3
    )
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    for way in ("C++ compiler", "edge.server", "--far"):
        assert way in done.stderr
