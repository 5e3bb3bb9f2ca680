"""The endpoint under MLPerf's LoadGen: SingleStream, Server, Offline, for speed and for accuracy.

    pip install mlcommons-loadgen
    python -m benchmarks.mlperf http://127.0.0.1:8000/v1 --scenario Server --qps 5 \\
        --json benchmarks/mlperf.json
    python -m benchmarks.mlperf URL --model NAME --scenario Offline --accuracy \\
        --questions questions.jsonl --number 60 --output-len 200 --json benchmarks/mlperf.json
    python -m benchmarks.mlperf URL --model NAME --long --output-len 512 --json ...

LoadGen decides when each query is sent and judges the latencies; its own logs go to --logs. With
--accuracy it sends every question once and logs every answer; the answers are then graded from
that log, and beside it those to the same questions asked plainly, one by one. --long makes every
answer as long as --output-len. Not a submission: MLPerf's models and texts are others, and a
submission runs for ten minutes at the least, where --seconds says how long this one does.
"""

from __future__ import annotations

import argparse
import array
import asyncio
import json
import os
import platform
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from offload.policy.fitting.questions import Question, by_kind, read_questions

SCENARIOS = ("SingleStream", "Server", "Offline")
SUMS = tuple(f"What is {number} + {3 * number}?" for number in range(128))
_NUM_AT_ONCE = 256


class Asker:
    """Sends LoadGen's queries from an event loop in a thread of its own."""

    def __init__(self, url: str, body: dict[str, Any], prompts: Sequence[str]) -> None:
        self._url, self._body, self._prompts = url, body, prompts
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        # Offline comes as thousands at once; a pool of httpx looks at all that wait for each.
        self._places = asyncio.Semaphore(_NUM_AT_ONCE)
        limits = httpx.Limits(max_connections=_NUM_AT_ONCE)
        self._client = httpx.AsyncClient(limits=limits, timeout=600, trust_env=False)
        self.num_failed = 0

    def issue(self, samples: list[Any]) -> None:
        """Take queries from LoadGen; each is completed when its answer is whole."""
        for sample in samples:
            asyncio.run_coroutine_threadsafe(self._ask(sample), self._loop)

    async def _ask(self, sample: Any) -> None:
        import mlperf_loadgen as lg

        text = b""
        try:
            async with self._places:
                text = await self._answer(sample.index)
        except (httpx.HTTPError, KeyError):
            self.num_failed += 1
        held = array.array("B", text or b"\0")
        address, size = held.buffer_info()
        lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, address, size)])

    async def _answer(self, number: int) -> bytes:
        turns = [{"role": "user", "content": self._prompts[number]}]
        body = {**self._body, "messages": turns}
        response = await self._client.post(f"{self._url}/chat/completions", json=body)
        response.raise_for_status()
        return str(response.json()["choices"][0]["message"]["content"]).encode()

    def one_by_one(self) -> list[str]:
        """Return the answer to each prompt, asked alone, without LoadGen."""
        numbers = range(len(self._prompts))
        asked = (asyncio.run_coroutine_threadsafe(self._answer(n), self._loop) for n in numbers)
        return [each.result().decode() for each in asked]


def run(
    asker: Asker, scenario: str, qps: float, seconds: float, logs: Path, *, num: int, accuracy: bool
) -> dict[str, Any]:
    """Run one scenario over `num` prompts, and return LoadGen's own summary as it wrote it."""
    import mlperf_loadgen as lg

    settings = lg.TestSettings()
    settings.scenario = getattr(lg.TestScenario, scenario)
    settings.mode = lg.TestMode.AccuracyOnly if accuracy else lg.TestMode.PerformanceOnly
    settings.min_duration_ms = int(seconds * 1000)
    settings.min_query_count = 1
    settings.server_target_qps = settings.offline_expected_qps = qps
    settings.server_target_latency_ns = 10_000_000_000
    where = lg.LogSettings()
    where.log_output.outdir = str(logs)
    sut = lg.ConstructSUT(asker.issue, lambda: None)
    qsl = lg.ConstructQSL(num, num, lambda _: None, lambda _: None)
    try:
        lg.StartTestWithLogSettings(sut, qsl, settings, where)
    finally:
        lg.DestroyQSL(qsl)
        lg.DestroySUT(sut)
    summary = (logs / "mlperf_log_summary.txt").read_text(encoding="utf-8")
    pairs = [line.split(":", 1) for line in summary.splitlines() if " : " in line]
    return {name.strip(): value.strip() for name, value in pairs}


def graded(asker: Asker, questions: Sequence[Question], logs: Path) -> dict[str, Any]:
    """Return how many answers in LoadGen's log are right, and of the same asked one by one."""
    logged = json.loads((logs / "mlperf_log_accuracy.json").read_text(encoding="utf-8"))
    texts = {entry["qsl_idx"]: bytes.fromhex(entry["data"]).decode() for entry in logged}
    alone = asker.one_by_one()
    pairs = [(texts[n], alone[n], question) for n, question in enumerate(questions)]
    return {
        "questions": len(questions),
        "right": sum(by_kind(text, question) for text, _, question in pairs),
        "right_one_by_one": sum(by_kind(text, question) for _, text, question in pairs),
        "texts_the_same": sum(text == other for text, other, _ in pairs),
    }


def keep(path: Path, document: dict[str, Any]) -> None:
    """Put one scenario's summary into a file, beside those of the others."""
    kept = json.loads(path.read_text("utf-8")) if path.exists() else {"scenarios": {}}
    kept["hardware"] = f"{platform.machine()}, {os.cpu_count()} cores shared by server and client"
    kept["versions"] = {name: version(name) for name in ("torch", "starlette", "uvicorn")}
    kept["not_a_submission"] = "our model and prompts, and a min_duration of our own"
    kept["scenarios"][document["scenario"] + document["part"]] = document
    path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Run one scenario and print its summary as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--model", default="nearfar-cloud")
    parser.add_argument("--scenario", choices=SCENARIOS, default="SingleStream")
    parser.add_argument("--qps", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--output-len", type=int, default=32)
    parser.add_argument("--long", action="store_true", help="no answer ends before its length")
    parser.add_argument("--questions", type=Path, help="ask these instead of sums (JSON lines)")
    parser.add_argument("--number", type=int, help="only the first so many of them")
    parser.add_argument("--accuracy", action="store_true", help="LoadGen's accuracy mode, graded")
    parser.add_argument("--logs", type=Path, default=Path("build/mlperf"))
    parser.add_argument("--json", type=Path, help="add the scenario to this file")
    chosen = parser.parse_args()
    if chosen.accuracy and chosen.questions is None:
        parser.error("--accuracy needs --questions FILE, whose answers it grades by")
    questions = read_questions(chosen.questions)[: chosen.number] if chosen.questions else []
    prompts = [question.question for question in questions] or SUMS
    body = {"model": chosen.model, "max_tokens": chosen.output_len, "temperature": 0}
    if chosen.long:
        body["ignore_eos"] = True
    chosen.logs.mkdir(parents=True, exist_ok=True)
    url = chosen.url.rstrip("/")
    httpx.get(f"{url}/models", trust_env=False).raise_for_status()
    asker = Asker(url, body, prompts)
    how = {"num": len(prompts), "accuracy": chosen.accuracy}
    summary = run(asker, chosen.scenario, chosen.qps, chosen.seconds, chosen.logs, **how)
    part = ", accuracy" if chosen.accuracy else f", {chosen.output_len} tokens" * chosen.long
    document = {"scenario": chosen.scenario, "part": part, "failed": asker.num_failed, **summary}
    document["model"] = chosen.model
    if chosen.accuracy and not asker.num_failed:
        document["graded"] = graded(asker, questions, chosen.logs)
    print(json.dumps(document, indent=2))
    if chosen.json is not None:
        keep(chosen.json, document)
    if asker.num_failed:  # LoadGen cannot tell a refusal from a quick answer
        sys.exit(f"{asker.num_failed} queries failed, so that the latencies mean nothing")


if __name__ == "__main__":
    main()
