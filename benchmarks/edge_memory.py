"""Rows of the edge's benchmark that are about what is kept: windows, sessions, bytes."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import edge_sides as sides
from benchmarks.edge_model import random_model
from edge.llama.kv_losses import kv_report
from offload.messages import Message, Request, Role, Sampling
from offload.pair import EDGE_MODEL

Row = dict[str, Any]
SHARED = Path(__file__).parents[2] / "shared" / "models"
TURN = "And then? Tell me what the keeper of the lighthouse did, number {}, and why he did it so."
REPLY = "He climbed the stairs, lit the lamp, and wrote the hour into his book, as on every day."


def long_chat(quick: bool) -> Row:
    """Turn 50 of a chat past the context, beside a program that truncates and reads anew."""
    return chat_past_context(random_model(), quick, turns=50)


def chat_past_context(path: Path, quick: bool, *, turns: int) -> Row:
    """Return the row of a long chat with a model."""
    turns, length = 12 if quick else turns, 512 if quick else 1024
    ours = sides.engine(path, max_model_len=length, kv_cache_dtype="auto")
    firsts = []
    for turn in range(1, turns + 1):
        request = Request(messages=_history(turn), sampling=Sampling(max_tokens=2))
        first, _, finish = sides.our_answer(ours, request)
        firsts.append(first)
    dropped = finish.dropped_tokens
    ours.close()
    theirs = sides.library(path, num_ctx=length)
    for turn in (turns - 1, turns):
        messages = _truncated(theirs, turn, length - 8)
        their_first, _ = sides.library_chat(theirs, 2, messages)
    theirs.close()
    early = float(np.median(firsts[3:6]))  # turns 4 to 6, late: the last three
    late = float(np.median(firsts[-3:]))
    return {
        "ratio": their_first / late,
        "ours": late,
        "theirs": their_first,
        "unit": f"s to the first token at turn {turns}",
        "late_to_early": late / early,
        "turn_5_s": early,
        "dropped_tokens": dropped,
        "max_model_len": length,
    }


def _history(turn: int) -> tuple[Message, ...]:
    messages = []
    for number in range(1, turn + 1):
        for role, text in (("user", TURN.format(number)), ("assistant", REPLY)):
            known: Role = "user" if role == "user" else "assistant"
            messages.append(Message(role=known, content=text))
    return tuple(messages[:-1])


def _truncated(model: Any, turn: int, limit: int) -> list[dict[str, str]]:
    """Return the newest turns that fit, as programs do that know nothing of windows."""
    messages = [{"role": m.role, "content": m.content} for m in _history(turn)]
    while True:
        text = "".join(m["content"] for m in messages)
        if len(model.tokenize(text.encode())) + 8 * len(messages) + 40 <= limit:
            return messages
        messages = messages[2:]


def session(quick: bool) -> Row:
    """Yesterday's conversation from disk, beside reading it again."""
    return restored_session(random_model(), quick)


def restored_session(path: Path, quick: bool) -> Row:
    """Return the row of a session restored with a model."""
    num_tokens = 300 if quick else 2000
    text = "The keeper wrote of ships and weather. " * num_tokens
    with tempfile.TemporaryDirectory() as folder:
        options = {"session_folder": Path(folder), "kv_cache_dtype": "auto"}
        ours = sides.engine(path, max_model_len=4096, **options)
        prompt = ours.prompt_tokens(Request(prompt=text))[:num_tokens]
        text = ours.detokenize(prompt).decode()
        request = Request(prompt=text, session="yesterday", sampling=Sampling(max_tokens=2))
        read_first, _, read = sides.our_answer(ours, request)
        started = time.perf_counter()
        ours.close()
        close_s = time.perf_counter() - started
        size = sum(file.stat().st_size for file in Path(folder).glob("*.kv"))
        restored = []
        for _ in range(3):
            ours = sides.engine(path, max_model_len=4096, **options)
            kv = str(ours.params.kv_types)
            first, _, finish = sides.our_answer(ours, request)
            restored.append((finish.usage.queue_s, first))
            ours.close()
    restore_s, first_s = min(restored)
    return {
        "ratio": read.usage.prefill_s / restore_s,
        "ours": restore_s,
        "theirs": read.usage.prefill_s,
        "unit": f"s for {len(prompt)} tokens",
        "first_token_ours": first_s,
        "first_token_theirs": read_first,
        "save_and_close_s": close_s,
        "file_bytes": size,
        "kv_cache_dtype": kv,
    }


def kv_types(quick: bool) -> Row:
    """Bytes and perplexity of keys and values in fewer bits, on models that were trained."""
    shared = [SHARED / name / f"{name}-f32.gguf" for name in ("stories3M", "stories260K")]
    table = {}
    for path in (EDGE_MODEL, *(each for each in shared if each.exists())):
        rows = kv_report(path, num_tokens=128 if quick else 480, num_threads=1)
        table[path.stem] = {
            row.name: {
                "ratio": row.ratio_to_f16,
                "perplexity_change": row.perplexity_change,
                "divergence": row.divergence,
            }
            for row in rows
        }
    embedded = table[EDGE_MODEL.stem]
    return {
        "ratio": embedded["q8_0"]["ratio"],
        "ours": embedded["q8_0"]["perplexity_change"],
        "theirs": 0.0,
        "unit": "perplexity change of q8_0 against f16, embedded model",
        "models": table,
    }
