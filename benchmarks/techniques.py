"""Techniques: what each of this project's own optimisations gains on a real model, by its switch.

    python -m benchmarks.techniques --near MODEL.gguf --far FOLDER [--only ROW] [--quick] [--write]

Every row runs both sides by turns, with the switch on and with it off, everything else at its
defaults, and reports the median of each. `gain` is above 1 where the technique makes it quicker.
--write keeps the rows in techniques.json, with the load of the machine before each, and draws their
table in docs/techniques.md anew.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks import edge_sides as sides
from benchmarks.cloud_load import jobs_of
from benchmarks.cloud_sides import Job, our_engine, ours, ours_together
from benchmarks.edge_at_once import COUNT, written_at_once
from benchmarks.edge_drafts import FILE, TASKS
from benchmarks.edge_sides import our_answer
from cloud.engine.engine import CloudEngine
from edge.llama.runtime import LlamaEngine
from offload.messages import Message, Request, Sampling

Row = dict[str, Any]
RESULT = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[1] / "docs" / "techniques.md"
BEGIN = "<!-- measured: written by benchmarks/techniques.py -->\n"
END = "<!-- end -->"
ROUNDS = 3
REWRITE = TASKS["a file written again with one name changed"]


@dataclass(frozen=True, kw_only=True)
class Switch:
    """One technique: the options that turn it on and off, and what is measured.

    unit: "s" where less is better, else a rate. alike: options that both sides have.
    measure_off: what is measured without it, where that differs.
    """

    technique: str
    on: dict[str, Any]
    off: dict[str, Any]
    load: str
    unit: Literal["s", "tokens/s"]
    measure: Callable[[Any], Any]
    alike: dict[str, Any] = field(default_factory=dict)
    measure_off: Callable[[Any], Any] | None = None


def _reading(engine: LlamaEngine, text: str) -> float:
    """Return seconds to the first token of a prompt that was not read before."""
    salt = f"{time.perf_counter()}"
    request = Request(
        messages=(Message(role="user", content=text),),
        sampling=Sampling(max_tokens=2),
        cache_salt=salt,
    )
    return our_answer(engine, request)[0]


def _second_turn(engine: LlamaEngine) -> float:
    """Return seconds to the first token of a question behind a file that was read a turn before."""
    first = Message(role="user", content=f"{time.perf_counter()}\n{FILE}\nWhat is this?")
    asked = Request(messages=(first,), sampling=Sampling(max_tokens=2))
    our_answer(engine, asked)
    turns = (
        first,
        Message(role="assistant", content="A class."),
        Message(role="user", content="Why?"),
    )
    return our_answer(engine, Request(messages=turns, sampling=Sampling(max_tokens=2)))[0]


def _writing(engine: LlamaEngine, text: str, num_tokens: int) -> float:
    """Return tokens per second of one greedy answer, its prompt read before."""
    request = Request(
        messages=(Message(role="user", content=text),), sampling=Sampling(max_tokens=num_tokens)
    )
    return our_answer(engine, request)[1]


def _one_after_another(engine: LlamaEngine) -> float:
    return _writing(engine, COUNT.format(3), 60)


NEAR = {
    "threads": Switch(
        technique="threads chosen at each step from the cores that are free",
        on={"num_threads": 0},
        off={"num_threads": max(1, (os.cpu_count() or 2) // 2)},
        load="one answer of 60 tokens",
        unit="tokens/s",
        measure=_one_after_another,
    ),
    "near_prefix_cache": Switch(
        technique="prefix reuse: the shared beginning of two prompts is not read again",
        on={"enable_prefix_caching": True},
        off={"enable_prefix_caching": False},
        load="first token of a question behind a file of 70 lines",
        unit="s",
        measure=_second_turn,
    ),
    "near_prefill": Switch(
        technique="prompts evaluated in batches (n_batch)",
        on={"max_num_batched_tokens": 512},
        off={"max_num_batched_tokens": 8},
        load="first token of a file of 70 lines",
        unit="s",
        measure=lambda engine: _reading(engine, FILE),
    ),
    "near_flash": Switch(
        technique="flash attention",
        on={"flash_attention": True},
        off={"flash_attention": False},
        load="first token of a prompt of two such files",
        unit="s",
        measure=lambda engine: _reading(engine, FILE * 2),
    ),
    "near_cache_q8": Switch(
        technique="KV cache in 8 bits (half the memory)",
        on={"kv_cache_dtype": "q8_0"},
        off={"kv_cache_dtype": "f16"},
        load="first token of a prompt of two such files",
        unit="s",
        measure=lambda engine: _reading(engine, FILE * 2),
    ),
    "near_lookup": Switch(
        technique="speculative decoding, drafts by prompt lookup",
        on={"max_draft_tokens": 15},
        off={"max_draft_tokens": 0},
        load="a file written again with one name changed, 120 tokens",
        unit="tokens/s",
        measure=lambda engine: _writing(engine, REWRITE, 120),
    ),
    "near_batching": Switch(
        technique="continuous batching: answers share steps",
        on={"max_num_seqs": 4},
        off={"max_num_seqs": 1},
        load="four answers of 60 tokens, at once and one after another",
        unit="tokens/s",
        measure=lambda engine: written_at_once(engine, 4, 60, None, {}),
        measure_off=_one_after_another,
    ),
}


async def _rate(engine: CloudEngine, jobs: list[Job]) -> float:
    began = time.perf_counter()
    results = await ours_together(engine, jobs)
    return sum(len(each.tokens) for each in results) / (time.perf_counter() - began)


async def _one(engine: CloudEngine) -> float:
    return await _rate(engine, jobs_of(1, (20, 20), (48, 48), seed=1))


async def _eight(engine: CloudEngine) -> float:
    return await _rate(engine, jobs_of(8, (8, 40), (16, 48), seed=2))


async def _shared_prefix(engine: CloudEngine) -> float:
    """Return seconds to the first token behind a beginning that another prompt had."""
    text = f"{time.perf_counter()} {FILE}"
    await ours(engine, Job(f"{text}\nWhat?", 1))
    return (await ours(engine, Job(f"{text}\nWhy?", 1))).first_s


async def _edit(engine: CloudEngine) -> float:
    """Return tokens per second behind a list that goes on as it began."""
    return await _rate(engine, [Job("one, two, three, four, " * 12, 64)])


async def _again(engine: CloudEngine) -> float:
    """Return seconds of a greedy question asked a second time by the same device."""
    job = jobs_of(1, (20, 20), (32, 32), seed=3)[0]
    await ours(engine, job)
    return (await ours(engine, job)).last_s


FAR = {
    "continuous_batching": Switch(
        technique="continuous batching: requests join and leave at every step",
        on={"max_num_seqs": 128},
        off={"max_num_seqs": 1},
        load="eight requests of mixed lengths",
        unit="tokens/s",
        measure=_eight,
    ),
    "prefix_cache": Switch(
        technique="prefix cache: blocks named by the hash of their text",
        on={"enable_prefix_caching": True},
        off={"enable_prefix_caching": False},
        load="first token behind a shared file of 70 lines",
        unit="s",
        measure=_shared_prefix,
    ),
    "fused_operators": Switch(
        technique="operator fusion: one product for q, k, v and for gate, up; packed weights",
        on={"fuse_operators": True},
        off={"fuse_operators": False},
        load="one request of 48 tokens",
        unit="tokens/s",
        measure=_one,
        alike={"num_speculative_tokens": 0},
    ),
    "type": Switch(
        technique="type of the weights chosen by measuring (here bfloat16 against float32)",
        on={"dtype": "auto"},
        off={"dtype": "float32"},
        load="one request of 48 tokens",
        unit="tokens/s",
        measure=_one,
        alike={"num_speculative_tokens": 0},
    ),
    "lookup": Switch(
        technique="speculative decoding, drafts by prompt lookup",
        on={"num_speculative_tokens": 4},
        off={"num_speculative_tokens": 0},
        load="one request that repeats what was said, 64 tokens",
        unit="tokens/s",
        measure=_edit,
    ),
    "overlap": Switch(
        technique="overlapped scheduling: a step is planned while the one before it runs",
        on={"async_scheduling": True},
        off={"async_scheduling": False},
        load="eight requests of mixed lengths",
        unit="tokens/s",
        measure=_eight,
        alike={"num_speculative_tokens": 0},
    ),
    "cache_int8": Switch(
        technique="KV cache in 8 bits (0.53 of bfloat16's memory)",
        on={"kv_cache_dtype": "int8"},
        off={"kv_cache_dtype": "auto"},
        load="eight requests of mixed lengths",
        unit="tokens/s",
        measure=_eight,
    ),
    "response_cache": Switch(
        technique="response cache: a greedy answer given again to its device",
        on={"response_cache_size": 64},
        off={"response_cache_size": 0},
        load="the same question again, 32 tokens",
        unit="s",
        measure=_again,
    ),
}


def near_row(switch: Switch, model: Path, rounds: int) -> Row:
    """Measure one switch of the llama.cpp runtime, both engines open, by turns."""
    with ExitStack() as stack:
        on, off = (
            stack.enter_context(
                closing(LlamaEngine(model, options=sides.options(max_model_len=4096, **more)))
            )
            for more in (switch.alike | switch.on, switch.alike | switch.off)
        )
        measure_off = switch.measure_off or switch.measure
        switch.measure(on)  # what is loaded at the first use is not counted
        measure_off(off)
        with_it, without = sides.by_turns(
            rounds, lambda: switch.measure(on), lambda: measure_off(off)
        )
    return _row(switch, with_it, without)


async def far_row(switch: Switch, model: Path, rounds: int) -> Row:
    """Measure one switch of the cloud engine on this machine's processor, by turns."""
    async with AsyncExitStack() as stack:
        on, off = [
            await stack.enter_async_context(
                our_engine(model, **{"device": "cpu", "max_model_len": 2048} | switch.alike | more)
            )
            for more in (switch.on, switch.off)
        ]
        found: tuple[list[float], list[float]] = ([], [])
        for counted in (False, *[True] * rounds):
            for engine, values in zip((on, off), found, strict=True):
                value = await switch.measure(engine)
                if counted:
                    values.append(value)
    return _row(switch, *map(statistics.median, found))


def _row(switch: Switch, with_it: float, without: float) -> Row:
    gain = without / with_it if switch.unit == "s" else with_it / without
    return {
        "technique": switch.technique,
        "load": switch.load,
        "gain": round(gain, 3),
        "on": round(with_it, 4),
        "off": round(without, 4),
        "unit": switch.unit,
        "options_on": switch.on,
        "options_off": switch.off,
    }


def table(rows: dict[str, Row]) -> str:
    """Return the rows as a Markdown table, near ones first."""
    lines = [
        "| technique | switch, on and off | load | on | off | gain |",
        "|---|---|---|---|---|---|",
    ]
    for name in [*NEAR, *FAR]:
        if (row := rows.get(name)) is None:
            continue
        side = "near" if name in NEAR else "far"
        switch = ", ".join(
            f"`{option}` {value}, {row['options_off'][option]}"
            for option, value in row["options_on"].items()
        )
        figures = " | ".join(f"{row[key]:.3g} {row['unit']}" for key in ("on", "off"))
        lines.append(
            f"| {side}: {row['technique']} | {switch} | {row['load']} | {figures} | "
            f"{row['gain']:.2f}x |"
        )
    return "\n".join(lines) + "\n"


def _draw(rows: dict[str, Row]) -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}{table(rows)}{END}{after}")


def main() -> None:
    """Measure the rows asked for, each kept as it ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--near", type=Path, required=True)
    parser.add_argument("--far", type=Path, required=True)
    parser.add_argument("--only", choices=[*NEAR, *FAR])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    result: Row = json.loads(RESULT.read_text()) if RESULT.exists() else {"rows": {}}
    result["hardware"] = {"machine": platform.machine(), "cores": os.cpu_count()}
    for name, switch in {**NEAR, **FAR}.items():
        if asked.only not in (None, name):
            continue
        load, began = os.getloadavg()[0], time.monotonic()
        rounds = 1 if asked.quick else ROUNDS
        if name in NEAR:
            row = {"model": asked.near.name} | near_row(switch, asked.near, rounds)
        else:
            row = {"model": asked.far.name} | asyncio.run(far_row(switch, asked.far, rounds))
        row |= {"load_before": round(load, 2), "seconds": round(time.monotonic() - began, 1)}
        result["rows"][name] = row
        print(name, json.dumps(row), flush=True)
        if asked.write:
            RESULT.write_text(json.dumps(result, indent=2) + "\n")
            _draw(result["rows"])


if __name__ == "__main__":
    main()
