"""Rows of the edge's benchmark on a real model: first tokens, `ask`, a server, loads, a long chat.

Each takes the folder that holds the model.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import edge_memory, edge_speed
from benchmarks import edge_sides as sides
from benchmarks.edge_model import find
from edge.device.cpu_load import num_usable_cores
from edge.llama.context import Context, ContextParams
from edge.llama.kv_types import KvTypes
from edge.llama.native_handles import Model
from edge.llama.runtime import LlamaEngine
from offload.messages import Finish, Request, Sampling

Row = dict[str, Any]


def served(folder: Path, quick: bool) -> Row:
    """Four clients at once over HTTP, beside llama_cpp.server; both stay up, and take turns."""
    path, num_tokens = find(folder, "0.5b"), 8 if quick else 64
    with (
        tempfile.TemporaryDirectory() as home,
        sides.server(*sides.our_server(path, Path(home))) as ours,
        sides.server(*sides.library_server(path)) as theirs,
    ):
        our_rate, their_rate = sides.by_turns(
            1 if quick else 3,
            lambda: sides.total_rate(ours, 4, num_tokens),
            lambda: sides.total_rate(theirs, 4, num_tokens),
        )
    return {
        "ratio": our_rate / their_rate,
        "ours": our_rate,
        "theirs": their_rate,
        "unit": "tokens/s of all",
    }


# How a prompt is read: our options, and plain llama.cpp's type of keys and values.
FIRST = {
    "640 tokens, f16": (640, "f16", "f16"),
    "640 tokens, q8_0": (640, "q8_0", "q8_0"),
    "640 tokens, our defaults beside f16": (640, "auto", "f16"),
    "6000 tokens, our defaults beside f16": (6000, "auto", "f16"),
}


def first_token(folder: Path, quick: bool) -> Row:
    """The first prompt after a start, the machine having been busy, beside plain llama.cpp."""
    path, table = find(folder, "0.5b"), {}
    load = os.getloadavg()[0]
    for name, (length, ours, theirs) in FIRST.items():
        if quick and length > 1000:
            continue
        mine, plain = sides.by_turns(
            1 if quick else 3,
            lambda n=length, k=ours: _our_first(path, n, k),  # type: ignore[misc]
            lambda n=length, k=theirs: _plain_first(path, n, k),  # type: ignore[misc]
        )
        table[name] = {"ratio": plain / mine, "ours": mine, "theirs": plain}
    worst = min(table.values(), key=lambda row: row["ratio"])
    return {**worst, "unit": "s to the first token", "load_at_start": load, "prompts": table}


def _our_first(path: Path, length: int, kind: str) -> float:
    """Return seconds to the first token of the first answer of an engine just opened."""
    tokens = np.random.default_rng(0).integers(0, 1000, length).tolist()
    ours = LlamaEngine(path, options=sides.options(kv_cache_dtype=kind, max_model_len=length + 256))
    request = Request(prompt_token_ids=tuple(tokens), sampling=Sampling(max_tokens=2))
    first, _, finish = sides.our_answer(ours, request)
    ours.close()
    assert isinstance(finish, Finish) and finish.usage.cached_tokens == 0
    return first


def _plain_first(path: Path, length: int, kind: str) -> float:
    tokens = np.random.default_rng(0).integers(0, 1000, length).tolist()
    params = ContextParams(
        num_tokens=length + 256, num_threads=num_usable_cores(), kv_types=KvTypes.parse(kind)
    )
    with Model(path) as model, Context(model, params) as context:
        started = time.perf_counter()
        for start in range(0, length, 512):
            context.decode(tokens[start : start + 512], start)
        context.logits().argmax()
        return time.perf_counter() - started


EIGHT_LINES = """
import sys
from llama_cpp import Llama, llama_cpp
if b"AMX_INT8 = 1" in llama_cpp.llama_print_system_info():  # as ours: those kernels die here
    defaults = llama_cpp.llama_model_default_params
    def changed():
        params = defaults()
        params.use_extra_bufts = False
        return params
    llama_cpp.llama_model_default_params = changed
llama = Llama(sys.argv[1], verbose=False)
messages = [{"role": "user", "content": "Say hi"}]
for chunk in llama.create_chat_completion(messages, temperature=0, max_tokens=256, stream=True):
    print(chunk["choices"][0]["delta"].get("content") or "", end="", flush=True)
"""


def ask(folder: Path, quick: bool) -> Row:
    """`nearfar ask "Say hi"` from shell to end, beside eight lines of llama-cpp-python."""
    path = find(folder, "0.5b")
    command = [sys.executable, "-m", "nearfar", "ask", "Say hi", "--offline", "-m", str(path)]
    command += ["--temperature", "0"]
    found: list[list[tuple[float, float]]] = [[], []]
    with tempfile.TemporaryDirectory() as home:
        environment = {
            **os.environ,
            "NEARFAR_HOME": home,
            "PYTHONPYCACHEPREFIX": f"{home}/bytecode",
        }
        # As an installed program, of which a checkout may be told to keep no bytecode.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        _run(command, environment)  # the first time of all compiles, and tries an unknown model
        _run([sys.executable, "-c", EIGHT_LINES, str(path)], environment)
        for _ in range(1 if quick else 7):
            found[0].append(_run(command, environment))
            found[1].append(_run([sys.executable, "-c", EIGHT_LINES, str(path)], environment))
    (ours, our_mb), (theirs, their_mb) = (
        tuple(statistics.median(values) for values in zip(*side, strict=True)) for side in found
    )
    return {
        "ratio": theirs / ours,
        "ours": ours,
        "theirs": theirs,
        "unit": "s",
        "times_as_long": ours / theirs,
        "memory_ours_mb": our_mb,
        "memory_theirs_mb": their_mb,
        "times_the_memory": our_mb / their_mb,
    }


def _run(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Return the seconds of a command and the megabytes that it held at most."""
    started = time.perf_counter()
    child = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    text, told = child.stdout, child.stderr
    assert text is not None and told is not None
    said, error = text.read(), told.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    text.close()
    told.close()
    assert child.returncode == 0 and said.strip(), f"{command} failed: {error[-300:]}"
    return seconds, usage.ru_maxrss / 1000


def one_answer(folder: Path, quick: bool) -> Row:
    """A streamed chat on an idle machine, beside llama-cpp-python's defaults."""
    return edge_speed.chats(find(folder, "0.5b"), quick, num_threads=None, num_busy=0)


def loads(folder: Path, quick: bool) -> Row:
    """The governor beside every fixed number of threads, under four loads; the worst counts."""
    return edge_speed.governed(find(folder, "0.5b"), quick)


def long_chat(folder: Path, quick: bool) -> Row:
    """Turn 60 of a chat past the context, beside a program that truncates and reads anew."""
    return edge_memory.chat_past_context(find(folder, "0.5b"), quick, turns=60)


def session(folder: Path, quick: bool) -> Row:
    """Yesterday's conversation from disk, beside reading it again."""
    return edge_memory.restored_session(find(folder, "0.5b"), quick)
