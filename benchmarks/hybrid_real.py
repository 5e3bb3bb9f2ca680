"""Hybrid of a real pair: accuracy against the share asked far, and seconds by the link's delay.

    python -m benchmarks.hybrid_real                                        the replay of the tables
    python -m benchmarks.hybrid_real --near A.gguf --far B.gguf --questions FOLDER       and live

The replay takes the answers of both models from benchmarks/policy_real; the near ones are scored by
a rule fitted to other models and other sets. Live, the near model answers in this process and the
far one in another, behind the link with CURVE and a proxy that delays what passes: near alone, far
alone and `auto`, question by question in turn, then `auto` with the far side gone. Both models
share the cores of one machine, so a far GPU would be quicker than what is shown. Writes
hybrid_real.json, and docs/pictures/hybrid-real.svg.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.policy_real_fits import FAR_RIGHT, MIN_GAIN, Table, scores_left_out
from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from offload.hybrid.hybrid import Hybrid, HybridOptions
from offload.link.client import CloudLink
from offload.link.keys import DeviceList, KeyPair
from offload.link.server import LinkServer
from offload.messages import Delta, Finish, Message, Request, Sampling
from offload.policy.fitting.deferral_curve import Outcomes, deferral_curve
from offload.policy.fitting.questions import Question, by_kind, read_questions
from offload.policy.serving.first_day import first_day
from offload.policy.serving.logistic import sigmoid
from tests.offload.chaos import Chaos

HERE = Path(__file__)
TABLES = HERE.with_name("policy_real")
PICTURE = HERE.parents[1] / "docs" / "pictures" / "hybrid-real.svg"
NEAR, FAR = "Qwen2.5-Coder-0.5B", "Qwen2.5-Coder-1.5B"
ROUND_TRIPS_MS = (5, 40, 150)
SHARES = np.linspace(0.0, 1.0, 21)
PER_FILE = {"svamp": 6, "gsm8k": 4, "bbh": 6}
MAX_TOKENS = 200
Row = dict[str, Any]


def replay() -> Row:
    """Return accuracy by the share of answers that the far model writes, by who chooses them."""
    tables = {p.name.removesuffix(".jsonl.gz"): Table.read(p) for p in TABLES.glob("*.jsonl.gz")}
    far = {row.id: float(row.right) for row in tables[FAR].rows}
    both = np.array([row.id in far for row in tables[NEAR].rows])
    table, scores = tables[NEAR].kept(both), scores_left_out(tables, NEAR)[both]
    strong = np.array([far[row.id] for row in table.rows])
    truth = Outcomes(table.right, strong)
    doubts = {
        "rule of the first day": -scores,
        "mean log-probability": -table.signals()["mean_logprob"],
        "at random": np.zeros(len(scores)),
        "knows when near is right": 1.0 - table.right,
    }
    goes = FAR_RIGHT - sigmoid(scores) > MIN_GAIN
    return {
        "questions": len(scores),
        "near_only": float(table.right.mean()),
        "far_only": float(strong.mean()),
        "shares": [round(float(share), 2) for share in SHARES],
        "accuracy": {name: _accuracies(doubt, truth) for name, doubt in doubts.items()},
        "auto": {
            "share": float(goes.mean()),
            "accuracy": float(np.where(goes, strong, table.right).mean()),
        },
    }


def _accuracies(doubt: Any, truth: Outcomes) -> list[float]:
    curve = deferral_curve(doubt, truth)
    near, far = truth.weak.mean(), truth.strong.mean()
    recovered = np.interp(SHARES, curve.share, curve.recovered)
    return [round(float(near + part * (far - near)), 4) for part in recovered]


def unseen(folder: Path) -> list[Question]:
    """Return some questions of each file that no table has, so that no rule was fitted to them."""
    asked = {row.id for p in TABLES.glob("*.jsonl.gz") for row in Table.read(p).rows}
    found: list[Question] = []
    for name, number in PER_FILE.items():
        rest = [q for q in read_questions(folder / f"{name}.jsonl") if q.id not in asked]
        found += rest[:: max(1, len(rest) // number)][:number]
    return found


def serve_far(model: str, keys: KeyPair, device: str, told: Connection) -> None:
    """Answer over the link, in a process of its own, until that is ended."""

    async def serve() -> None:
        devices = DeviceList()
        devices.add("bench", device)
        engine = LlamaEngine(Path(model), options=LlamaOptions(max_model_len=2048))
        server = LinkServer(engine, keys=keys, devices=devices)
        await server.start()
        told.send(server.endpoint)
        await asyncio.Event().wait()

    asyncio.run(serve())


@asynccontextmanager
async def far_side(model: Path) -> AsyncIterator[tuple[CloudLink, Chaos]]:
    """Yield the link to a far model in another process, and the proxy between the two."""
    server_keys, device_keys = KeyPair.new(), KeyPair.new()
    ours, theirs = multiprocessing.Pipe()
    spawn = multiprocessing.get_context("spawn")
    child = spawn.Process(
        target=serve_far, args=(str(model), server_keys, device_keys.public, theirs), daemon=True
    )
    child.start()
    try:
        endpoint = await asyncio.to_thread(ours.recv)
        async with Chaos(endpoint) as proxy:
            link = CloudLink(proxy.endpoint, server_key=server_keys.public, device_keys=device_keys)
            async with aclosing(link):
                await link.connect(30.0)
                yield link, proxy
    finally:
        child.terminate()
        child.join()


async def live(near: Path, far: Path, questions: list[Question]) -> Row:
    """Return each way's accuracy, seconds and far tokens at each delay, all in one run."""
    async with far_side(far) as (link, proxy):
        hybrid = Hybrid(
            LlamaEngine(near, options=LlamaOptions(max_model_len=2048)),
            link,
            options=HybridOptions(rule=first_day()),
        )
        rows: dict[str, list[Row]] = {}
        for number, question in enumerate(questions):
            for delay_ms in ROUND_TRIPS_MS:
                proxy.delay_s = delay_ms / 2000
                ways = ["auto-cloud", "auto"] if number % 2 else ["auto", "auto-cloud"]
                for way in (*ways, "auto-local")[: 3 if delay_ms == ROUND_TRIPS_MS[0] else 2]:
                    name = way if way == "auto-local" else f"{way} at {delay_ms} ms"
                    rows.setdefault(name, []).append(await _asked(hybrid, question, way))
            print(f"{number + 1} of {len(questions)} questions", flush=True)
        proxy.refuse = True
        proxy.cut()
        for question in questions:
            rows.setdefault("auto, far side gone", []).append(
                await _asked(hybrid, question, "auto")
            )
        await hybrid.aclose()
    return {"questions": [q.id for q in questions], "ways": {n: _of(r) for n, r in rows.items()}}


async def _asked(hybrid: Hybrid, question: Question, way: str) -> Row:
    request = Request(
        messages=(Message(role="user", content=question.question),),
        sampling=Sampling(max_tokens=MAX_TOKENS),
        model=way,
        cache_salt=f"{time.perf_counter()}",  # nobody finds the question read before
    )
    began, first_s, text = time.perf_counter(), 0.0, ""
    async with aclosing(hybrid.generate(request)) as items:
        async for item in items:
            if isinstance(item, Delta):
                text = item.text if item.replaces else text + item.text
                first_s = first_s or (time.perf_counter() - began if item.text else 0.0)
            elif isinstance(item, Finish):
                finish = item
    route = finish.route
    assert route is not None, "a hybrid tells who answered"
    return {
        "first_s": first_s,
        "last_s": time.perf_counter() - began,
        "right": by_kind(text, question),
        "far": route.served_by == "cloud",
        "bytes_sent": finish.usage.bytes_sent,
    }


def _of(rows: list[Row]) -> Row:
    return {
        "right": sum(row["right"] for row in rows),
        "written_far": sum(row["far"] for row in rows),
        "first_word_s": round(statistics.median(row["first_s"] for row in rows), 3),
        "last_word_s": round(statistics.median(row["last_s"] for row in rows), 2),
        "last_word_s_mean": round(statistics.fmean(row["last_s"] for row in rows), 2),
        "bytes_sent": sum(row["bytes_sent"] for row in rows),
    }


def draw(found: Row, path: Path) -> None:
    """Draw accuracy by share asked far, and the median seconds to the last word by delay."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "nearfar"  # the same figures, the same file
    told, ways = found["replay"], found.get("live", {}).get("ways", {})
    figure, panels = pyplot.subplots(1, 2 if ways else 1, figsize=(10 if ways else 6, 4))
    axes = panels[0] if ways else panels
    for (name, values), style in zip(told["accuracy"].items(), ("-", "--", ":", "-."), strict=True):
        axes.plot(told["shares"], [100 * value for value in values], style, label=name)
    axes.plot(told["auto"]["share"], 100 * told["auto"]["accuracy"], "o", label="auto, as it ships")
    axes.set_xlabel("share of answers written by the far model")
    axes.set_ylabel(f"right of {told['questions']} questions, %")
    axes.legend(fontsize=7)
    if ways:
        for way, label in (("auto", "auto"), ("auto-cloud", "far alone")):
            values = [ways[f"{way} at {ms} ms"]["last_word_s"] for ms in ROUND_TRIPS_MS]
            panels[1].plot(ROUND_TRIPS_MS, values, "o-", label=label)
        for name, label in (("auto-local", "near alone"), ("auto, far side gone",) * 2):
            panels[1].axhline(ways[name]["last_word_s"], linestyle=":", label=label, color="grey")
        panels[1].set_xlabel("round trip of the link, ms")
        panels[1].set_ylabel("median seconds to the last word")
        panels[1].set_ylim(bottom=0)
        panels[1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    """Replay the tables, measure live where models are given, and write both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--near", type=Path)
    parser.add_argument("--far", type=Path)
    parser.add_argument("--questions", type=Path, help="the folder of question files")
    parser.add_argument("--number", type=int, help="ask only so many")
    asked = parser.parse_args()
    result = HERE.with_suffix(".json")
    found = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {}
    found["replay"] = replay()
    if asked.near and asked.far and asked.questions:
        load = os.getloadavg()[0]
        found["live"] = asyncio.run(
            live(asked.near, asked.far, unseen(asked.questions)[: asked.number])
        )
        found["live"] |= {
            "near": asked.near.name,
            "far": asked.far.name,
            "load_before": round(load, 2),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores shared by both models",
        }
    result.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(found, PICTURE)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
