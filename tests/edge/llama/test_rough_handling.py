"""The llama.cpp runtime on a machine that changes under it: readers, cores and time go away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from edge.llama.context import BatchPart
from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from edge.llama.slots import Slot
from offload.messages import Delta, Finish, Request, Sampling
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
PROMPTS = tuple(f"the story of number {number}" for number in range(8))
ENDED = (1, 4, 6)  # those whose readers leave


def _answer(
    engine: LlamaEngine, prompt: str, gone: threading.Event | None = None
) -> tuple[list[int], Finish]:
    request = Request(prompt=prompt, sampling=Sampling(max_tokens=200, ignore_eos=True))
    *deltas, finish = engine.answer(request, gone)
    assert isinstance(finish, Finish)
    return [t for delta in deltas if isinstance(delta, Delta) for t in delta.token_ids], finish


def test_three_of_eight_that_end_in_mid_step_leave_the_others_their_text(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = LlamaOptions(
        max_num_seqs=8, num_threads=1, kv_cache_dtype="f32", flash_attention=False
    )
    engine = LlamaEngine(tiny_gguf, options=options)
    alone = [_answer(engine, prompt)[0] for prompt in PROMPTS]
    gone = [threading.Event() for _ in PROMPTS]
    decode, take, taken = engine.context.decode_parts, engine.slots.take, []

    def taking(*asked: Any) -> AbstractContextManager[Slot]:
        taken.append(asked)
        return take(*asked)

    def leaving(parts: list[BatchPart]) -> None:
        wait_until(lambda: len(taken) == 8)
        if len(parts) == 8 and all(len(part.tokens) == 1 for part in parts):
            for number in ENDED:
                gone[number].set()
        decode(parts)

    monkeypatch.setattr(engine.slots, "take", taking)
    monkeypatch.setattr(engine.context, "decode_parts", leaving)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda each: _answer(engine, *each), zip(PROMPTS, gone, strict=True)))
    for number, (tokens, finish) in enumerate(found):
        if number in ENDED:
            assert finish.reason == "cancelled" and tokens == alone[number][: len(tokens)]
        else:
            assert tokens == alone[number], number
    monkeypatch.undo()
    again = [_answer(engine, prompt)[0] for prompt in PROMPTS]
    assert again == alone, "their lanes are sound behind them"
    engine.close()


# Writes a token a line, and waits for a line from stdin behind the fifth.
SCRIPT = """
import sys
from pathlib import Path
from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from offload.messages import Delta, Request, Sampling
engine = LlamaEngine(Path(sys.argv[1]), options=LlamaOptions(kv_cache_dtype="f32"))
request = Request(prompt="the sea", sampling=Sampling(max_tokens=60, ignore_eos=True))
for count, item in enumerate(engine.answer(request), 1):
    if isinstance(item, Delta):
        print(*item.token_ids, flush=True)
        if count == 5:
            sys.stdin.readline()
governor = engine.slots.all[0].tuner.governor
governor.look()
print(item.reason, governor.prefill_threads, flush=True)
engine.close()
"""


def _told(path: Path, disturb: Callable[[subprocess.Popen[str]], None] | None) -> list[str]:
    """Return the lines of an answer in a process of its own, disturbed behind its fifth token."""
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None and child.stdout is not None
    lines = [child.stdout.readline().strip() for _ in range(5)]
    if disturb is not None:
        disturb(child)
    rest, _ = child.communicate("go on\n", timeout=120)
    assert child.returncode == 0
    return lines + rest.split("\n")


def _sleep(child: subprocess.Popen[str]) -> None:
    os.kill(child.pid, signal.SIGSTOP)
    os.waitpid(child.pid, os.WUNTRACED)
    os.kill(child.pid, signal.SIGCONT)


def _take_cores(child: subprocess.Popen[str]) -> None:
    kept = min(os.sched_getaffinity(child.pid))
    for task in Path(f"/proc/{child.pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {kept})


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux moves tasks to cores")
def test_an_answer_goes_on_when_cores_go_away_or_the_machine_sleeps(tiny_gguf: Path) -> None:
    undisturbed = _told(tiny_gguf, None)
    assert len(undisturbed) == 62 and undisturbed[-2].startswith("length ")
    asleep = _told(tiny_gguf, _sleep)
    assert asleep == undisturbed
    moved = _told(tiny_gguf, _take_cores)
    assert moved[:60] == undisturbed[:60] and moved[-2] == "length 1"
