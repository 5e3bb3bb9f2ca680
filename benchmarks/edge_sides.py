"""The sides that the edge is measured against: bare llama.cpp, llama-cpp-python, its server."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from edge.llama.library import llama
from edge.llama.native_handles import has_amx
from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from offload.messages import Delta, Finish, Message, Request, Sampling

CONTEXT = 2048
QUESTION = "Tell me a long story about a lighthouse and the sea, with all that happened there."
SAMPLED = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "seed": 1}
ROOT = Path(__file__).parents[1]


def engine(path: Path, **more: Any) -> LlamaEngine:
    """Return our engine with a context of the length that every side has."""
    return LlamaEngine(path, options=options(**more))


def options(**more: Any) -> LlamaOptions:
    """Return our options, with the context and the type of keys and values of every side."""
    return LlamaOptions(**{"max_model_len": CONTEXT, "kv_cache_dtype": "f16", **more})


def our_answer(ours: LlamaEngine, request: Request) -> tuple[float, float, Finish]:
    """Return seconds to the first token, decoded tokens per second, and the end."""
    started = time.perf_counter()
    first = 0.0
    count = 0
    finish: Finish | None = None
    for item in ours.answer(request):
        if isinstance(item, Finish):
            finish = item
        elif isinstance(item, Delta) and item.token_ids:
            count += 1
            first = first or time.perf_counter()
    assert finish is not None
    return first - started, (count - 1) / (time.perf_counter() - first), finish


def chat_request(max_tokens: int, *turns: str) -> Request:
    """Return a sampled chat, as `library_chat` asks it of llama-cpp-python."""
    messages = [Message(role="user", content=text) for text in turns or (QUESTION,)]
    return Request(messages=tuple(messages), sampling=Sampling(max_tokens=max_tokens, **SAMPLED))


class Bare:
    """The least that a program can do with llama.cpp: decode, take the likeliest, decode."""

    def __init__(self, path: Path, *, num_threads: int) -> None:
        self._lib = lib = llama()
        params = lib.llama_model_default_params()
        params.n_gpu_layers, params.use_extra_bufts = 0, not has_amx(lib)  # as ours
        self._model = lib.llama_model_load_from_file(str(path).encode(), params)
        made = lib.llama_context_default_params()
        made.n_ctx, made.n_batch, made.n_ubatch = CONTEXT, 512, 512
        made.n_threads = made.n_threads_batch = num_threads
        made.flash_attn_type, made.no_perf = 1, True
        self._context = lib.llama_init_from_model(self._model, made)
        self._memory = lib.llama_get_memory(self._context)
        self._num_vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model))
        self._batch = lib.llama_batch_init(512, 0, 1)

    def run(self, prompt: list[int], num_tokens: int) -> tuple[float, float]:
        """Return tokens per second of the prompt, and of what is written behind it."""
        self._lib.llama_memory_clear(self._memory, True)
        started = time.perf_counter()
        token = self._decode(prompt, 0)
        read = time.perf_counter()
        for step in range(num_tokens - 1):
            token = self._decode([token], len(prompt) + step)
        return len(prompt) / (read - started), (num_tokens - 1) / (time.perf_counter() - read)

    def _decode(self, tokens: list[int], position: int) -> int:
        batch = self._batch
        for index, token in enumerate(tokens):
            batch.token[index], batch.pos[index] = token, position + index
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
            batch.logits[index] = index == len(tokens) - 1
        batch.n_tokens = len(tokens)
        assert self._lib.llama_decode(self._context, batch) == 0
        logits = self._lib.llama_get_logits_ith(self._context, -1)
        return int(np.ctypeslib.as_array(logits, (self._num_vocabulary,)).argmax())

    def close(self) -> None:
        """Free everything."""
        self._lib.llama_batch_free(self._batch)
        self._lib.llama_free(self._context)
        self._lib.llama_model_free(self._model)


def without_amx() -> None:
    """Keep llama-cpp-python off the kernels that die here, as ours is
    (edge/llama/native_handles.py).

    Both sides then compute with the same ones; without AMX neither is changed, and both repack
    their weights.
    """
    lib = llama()
    if not has_amx(lib):
        return
    defaults = lib.llama_model_default_params

    def changed() -> Any:
        params = defaults()
        params.use_extra_bufts = False
        return params

    lib.llama_model_default_params = changed


def library(path: Path, *, num_ctx: int = CONTEXT, num_threads: int | None = None) -> Any:
    """Return llama-cpp-python's own class, with its defaults but for the context's length."""
    without_amx()
    from llama_cpp import Llama

    return Llama(str(path), n_ctx=num_ctx, n_threads=num_threads, verbose=False)


def library_chat(
    model: Any, max_tokens: int, messages: list[dict[str, str]] | None = None
) -> tuple[float, float]:
    """Stream a chat; return seconds to the first token and decoded tokens per second."""
    asked = messages or [{"role": "user", "content": QUESTION}]
    started = time.perf_counter()
    first = 0.0
    reason = None
    for chunk in model.create_chat_completion(asked, stream=True, max_tokens=max_tokens, **SAMPLED):
        choice = chunk["choices"][0]
        reason = choice["finish_reason"] or reason
        if not first and "content" in choice["delta"]:
            first = time.perf_counter()
    assert reason == "length", f"the model stopped by itself ({reason}); its tokens are not known"
    return first - started, (max_tokens - 1) / (time.perf_counter() - first)


@contextlib.contextmanager
def busy_cores(count: int, *, on_s: float = 0.0, off_s: float = 0.0) -> Iterator[None]:
    """Keep cores busy in processes of their own; with seconds, on and off by turns."""
    script = (  # it ends with its parent, however that ends
        "import os, sys, time\non, off = map(float, sys.argv[1:])\nparent = os.getppid()\n"
        "while os.getppid() == parent:\n end = time.monotonic() + (on or 1)\n"
        " while time.monotonic() < end: pass\n time.sleep(off)\n"
    )
    command = [sys.executable, "-c", script, str(on_s), str(off_s)]
    children = [subprocess.Popen(command) for _ in range(count)]
    time.sleep(1.0)
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.wait()


@contextlib.contextmanager
def server(command: list[str], environment: dict[str, str], port: int) -> Iterator[str]:
    """Run a server until its port answers; yield its address."""
    child = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}/v1"
    try:
        _wait_for(f"{address}/models", child)
        yield address
    finally:
        child.terminate()
        child.wait()


def _wait_for(url: str, child: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            if httpx.get(url, timeout=2).status_code < 500:
                return
        except httpx.HTTPError:
            pass
        if child.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"{url} does not answer")
        time.sleep(0.2)


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def library_server(path: Path) -> tuple[list[str], dict[str, str], int]:
    """Return how llama_cpp.server is started: its defaults, and nobody interrupts another."""
    port = free_port()
    script = (
        "from benchmarks.edge_sides import without_amx; without_amx(); import runpy; "
        "runpy.run_module('llama_cpp.server', run_name='__main__')"
    )
    command = [sys.executable, "-c", script, "--model", str(path)]
    command += ["--port", str(port), "--n_ctx", str(CONTEXT), "--interrupt_requests", "false"]
    return command, {}, port


def our_server(path: Path, home: Path) -> tuple[list[str], dict[str, str], int]:
    """Return how `nearfar serve` is started: its defaults, at the same length of context."""
    port = free_port()
    command = [sys.executable, "-m", "nearfar", "serve", "--offline", "--port", str(port)]
    environment = {
        "NEARFAR_HOME": str(home),
        "NEARFAR_EDGE_MODEL": str(path),
        "NEARFAR_EDGE_MAX_MODEL_LEN": str(CONTEXT),
    }
    return command, environment, port


def total_rate(address: str, num_clients: int, max_tokens: int) -> float:
    """Return tokens per second of clients who ask at the same time, all together."""
    from concurrent.futures import ThreadPoolExecutor

    name = httpx.get(f"{address}/models", timeout=20).json()["data"][0]["id"]

    def ask(number: int) -> int:
        body = {
            "model": name,
            "messages": [{"role": "user", "content": f"{number}: {QUESTION}"}],
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        reply = httpx.post(f"{address}/chat/completions", json=body, timeout=200)
        assert reply.status_code == 200, reply.text[:200]
        return int(json.loads(reply.text)["usage"]["completion_tokens"])

    ask(99)  # the first answer loads what later ones find loaded
    started = time.perf_counter()
    with ThreadPoolExecutor(num_clients) as pool:
        total = sum(pool.map(ask, range(num_clients)))
    return total / (time.perf_counter() - started)


def by_turns(rounds: int, *sides: Callable[[], float]) -> list[float]:
    """Run the sides by turns, so that a change of the machine meets all; return the medians."""
    found: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, values in zip(sides, found, strict=True):
            values.append(side())
    return [statistics.median(values) for values in found]
