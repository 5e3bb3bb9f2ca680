"""What goes wrong outside the program: damaged files, full disks, a kill at any moment."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backbone.errors import CheckpointError, NearfarError
from edge.conversations.store import Conversations
from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from offload.config.places import places
from offload.config.settings import EdgeSettings
from offload.messages import Delta, Finish, Request, Sampling

ROOT = Path(__file__).parents[3]
LONG = "What is 17 + 25? " + "Think of it well. " * 12


def _start(*arguments: str, most_bytes: int = 0) -> subprocess.Popen[str]:
    """Start the command; `most_bytes` of any file is what the disk holds, as the kernel says."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    return subprocess.Popen(
        [sys.executable, "-m", "nearfar", *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit if most_bytes else None,
    )


def _chat(*questions: str, most_bytes: int = 0, new: bool = False) -> tuple[list[Any], str]:
    """Have a chat to its end; return its JSON lines and what it said beside them."""
    words = ["chat", "--json", "--offline", "--max-tokens", "8"]
    child = _start(*words, *([] if new else ["--continue"]), most_bytes=most_bytes)
    out, err = child.communicate("\n".join(questions) + "\n")
    assert child.returncode == 0, err
    assert "Traceback" not in err
    return [json.loads(line) for line in out.splitlines()], err


def _intact() -> Conversations:
    path = places().conversations
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    return Conversations(path)


def test_a_chat_killed_at_any_moment_goes_on(home: Path) -> None:
    started = time.monotonic()
    _chat(LONG, new=True)
    whole_s = time.monotonic() - started
    moments = random.Random(4)
    for part in range(5):
        child = _start("chat", "--json", "--offline", "--continue", "--max-tokens", "8")
        assert child.stdin is not None
        child.stdin.write(f"And {part} + 5? {LONG}\n" * 3)
        child.stdin.flush()
        # Any moment will do, before the model is loaded or after the last word.
        time.sleep(whole_s * (part + moments.random()) / 5)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        store = _intact()
        (talk,) = store.headings()
        first, second = store.read(talk.id).turns[:2]
        assert (first.content, second.state) == (LONG.strip(), "whole")
    (line,), err = _chat("What is 2 + 3?")
    assert line["answer"] and "ignored" not in err
    folder = places().cache / "sessions"
    assert len(list(folder.glob("*.kv"))) == 1, "and its keys and values are kept again"


def test_a_full_disk_costs_the_session_and_nothing_else(home: Path) -> None:
    _chat(LONG, new=True)
    (session,) = (places().cache / "sessions").glob("*.kv")
    whole = session.read_bytes()
    _, err = _chat(LONG, most_bytes=len(whole) - 1)
    assert "a session could not be kept (File too large)" in err
    assert session.read_bytes() == whole, "the old state is still whole"
    assert sorted(p.suffix for p in session.parent.iterdir()) == ["", ".kv"], "and nothing half"
    store = _intact()
    assert len(store.read(store.headings()[0].id).turns) == 4
    _, err = _chat(LONG)
    assert "session" not in err and session.read_bytes() != whole


def test_a_disk_too_full_for_a_conversation_is_one_line(home: Path) -> None:
    child = _start("chat", "--json", "--offline", most_bytes=4096)
    out, err = child.communicate("hello\n")
    assert child.returncode == 1 and "free some" in json.loads(out)["error"]
    assert err.count("\n") == 1 and "Traceback" not in err


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes_are_an_answer_or_one_line(
    tiny_gguf: Path, tmp_path: Path, home: Path, seed: int
) -> None:
    """Where the damage lies in a weight there is an answer: only a checksum could tell."""
    noise = random.Random(seed)
    data = bytearray(tiny_gguf.read_bytes())
    for _ in range(3):
        data[noise.randrange(24, 6000)] = noise.randrange(256)
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(data)
    child = _start("ask", "--json", "--offline", "-m", str(bad), "--max-tokens", "4", "hello")
    out, err = child.communicate()
    assert child.returncode in (0, 1), f"not by a signal: {child.returncode} {err}"
    found = json.loads(out)
    assert ("error" in found) == (child.returncode == 1) and "Traceback" not in err


@pytest.mark.parametrize("context_len", [1, 2**31 - 1, 2**32 - 1])
def test_an_absurd_context_in_the_file_is_refused_or_bounded(
    tmp_path: Path, make_tiny_gguf: Callable[..., Path], context_len: int
) -> None:
    path = make_tiny_gguf(tmp_path / "m.gguf", context_len=context_len)
    try:
        engine = LlamaEngine(path, options=LlamaOptions(num_threads=1))
    except NearfarError as error:
        assert "context" in str(error) or "room" in str(error)
        return
    try:
        *_, finish = engine.answer(Request(prompt="hi", sampling=Sampling(max_tokens=2)))
        assert isinstance(finish, Finish)
    except NearfarError as error:
        assert "maximum context length" in str(error)
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("max_model_len", value) for value in (-1, 10**9, 10**30)),
        *(("window", value) for value in (-2, 1, 10**30)),
        ("num_sinks", 10**9),
    ],
)
def test_an_absurd_context_in_the_settings_names_the_setting(
    home: Path, tiny_gguf: Path, name: str, value: int
) -> None:
    from edge.near.edge_factory import llama_options
    from offload.config.settings import Settings

    with pytest.raises(NearfarError, match=name):
        settings = Settings(edge=EdgeSettings(**{name: value}))  # type: ignore[arg-type]
        options = llama_options(tiny_gguf, settings, places())
        LlamaEngine(tiny_gguf, options=options).close()


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("sampled", [{}, {"temperature": 0.8, "seed": 1}])
def test_logits_that_are_no_numbers_end_the_answer(
    tiny_gguf: Path, number: str, sampled: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the fourth token on: what came before is the reader's, and then the reason."""
    engine = LlamaEngine(tiny_gguf, options=LlamaOptions(num_threads=1))
    logits, calls = engine.context.logits, [0]

    def spoiled(row: int = -1) -> np.ndarray:
        calls[0] += 1
        found = logits(row)
        return found if calls[0] < 4 else np.full_like(found, float(number))

    endless = {"logit_bias": {257: -100.0}, "max_tokens": 9}  # 257 would end the answer
    request = Request(prompt="hi", sampling=Sampling(**endless, **sampled))  # type: ignore
    with monkeypatch.context() as patch:
        patch.setattr(engine.context, "logits", spoiled)
        *deltas, finish = engine.answer(request)
    assert isinstance(finish, Finish) and finish.reason == "error"
    assert "not a number" in (finish.error or "")
    assert sum(len(d.token_ids) for d in deltas if isinstance(d, Delta)) == 3
    *_, finish = engine.answer(request)
    assert isinstance(finish, Finish) and finish.reason != "error", "the next answer is sound"
    engine.close()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_one_line(tmp_path: Path, tiny_gguf: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(tiny_gguf.read_bytes())
    path.chmod(0)
    with pytest.raises(CheckpointError, match="check its permissions"):
        LlamaEngine(path)
