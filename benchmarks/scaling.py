"""Autoscaling, live: one client, then many, then one again; when replicas come, and what is lost.

    python -m benchmarks.scaling --model MODEL.gguf    writes benchmarks/scaling.json, and a picture
    scripts/demo_scaling                               the same to look at, with a small real model

Starts `nearfar cloud serve` with `--min-replicas 1 --max-replicas N` and asks it through its HTTP
face; each client asks again as soon as it is answered. Replicas have one thread each.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from benchmarks.scaling_picture import draw
from cloud.bench.report import percentile
from cloud.bench.trial import RequestTrial, ask

ROOT = Path(__file__).resolve().parents[1]
_LOOK_S = 0.5
_REFUSED = (429, 503)
_PATIENCE_S = 600.0  # for a phase that waits for the replicas
QUESTION = "Write one sentence about the number {number}."


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was seen at one moment; seconds count from the beginning."""

    at_s: float
    clients: int
    ready: int
    starting: int
    draining: int
    running: int
    tokens_per_s: float


@contextlib.contextmanager
def endpoint(model: str, flags: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Serve while the block lasts; yield the base URL and the model's name."""
    command = [sys.executable, "-m", "nearfar", "cloud", "serve", "--json", *flags]
    command += ["--bind", "tcp://127.0.0.1:*", "--http", "127.0.0.1:0"]
    command += ["--model", model] if model else []
    with tempfile.TemporaryDirectory() as home:
        own = {"NEARFAR_HOME": home, "OMP_NUM_THREADS": "1", **os.environ}
        process = subprocess.Popen(command, cwd=ROOT, env=own, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            told = json.loads(process.stdout.readline())
            yield told["url"], told["model"]
        finally:
            process.terminate()
            process.wait(60)


class Crowd:
    """Crowd of clients, each of which asks again as soon as it is answered."""

    def __init__(self, client: httpx.AsyncClient, url: str, model: str, num_tokens: int) -> None:
        self._client, self._url = client, f"{url}/chat/completions"
        self._body = {
            "model": model,
            "max_tokens": num_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        self.trials: list[RequestTrial] = []
        self.size = 0
        self._asking: set[asyncio.Task[None]] = set()
        self._number = 0

    def resize(self, size: int) -> None:
        """Let so many ask; those that are too many go when they have been answered."""
        for index in range(self.size, size):
            task = asyncio.create_task(self._keep_asking(index))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        self.size = size

    async def leave(self) -> None:
        """Let every client be answered and go."""
        self.size = 0
        await asyncio.gather(*self._asking)

    async def _keep_asking(self, index: int) -> None:
        while index < self.size:
            self._number += 1
            turn = {"role": "user", "content": QUESTION.format(number=self._number)}
            body = {**self._body, "messages": [turn]}
            self.trials.append(await ask(self._client, self._url, body, timeout_s=_PATIENCE_S))


class Watch:
    """Watch of an endpoint's replicas while a crowd asks it."""

    def __init__(self, client: httpx.AsyncClient, url: str, crowd: Crowd) -> None:
        self._client, self._crowd = client, crowd
        self._page = url.removesuffix("/v1") + "/metrics"
        self.began_s = time.monotonic()
        self.looks: list[Look] = []
        self._tokens = (self.began_s, 0.0)

    @property
    def now_s(self) -> float:
        return time.monotonic() - self.began_s

    async def until(self, holds: Callable[[Look], bool], at_least_s: float) -> None:
        """Keep looking for so long, and then until something is true of what is seen."""
        begun_s = self.now_s
        while True:
            look = await self._look()
            self.looks.append(look)
            _show(look)
            if self.now_s - begun_s >= at_least_s and holds(look):
                return
            if self.now_s - begun_s > at_least_s + _PATIENCE_S:
                raise SystemExit(f"the replicas did not come or go in time; the last look: {look}")
            await asyncio.sleep(_LOOK_S)

    async def _look(self) -> Look:
        page = (await self._client.get(self._page, timeout=60)).text
        now_s, total = time.monotonic(), _number(page, "generation_tokens_total")
        before_s, before = self._tokens
        self._tokens = now_s, total
        states = {
            state: int(_number(page, f'replicas{{state="{state}"}}'))
            for state in ("ready", "starting", "draining")
        }
        return Look(
            at_s=round(now_s - self.began_s, 2),
            clients=self._crowd.size,
            running=int(_number(page, "num_requests_running")),
            tokens_per_s=round((total - before) / max(now_s - before_s, 1e-6), 1),
            **states,
        )


def _number(page: str, name: str) -> float:
    found = re.search(rf"^nearfar:{re.escape(name)} (\S+)$", page, re.MULTILINE)
    assert found is not None, f"the endpoint tells {name}"
    return float(found[1])


def _show(look: Look) -> None:
    """Print a line for a person: what asks, and what answers."""
    bars = "█" * look.ready + "▒" * look.starting + "░" * look.draining
    print(
        f"{look.at_s:6.1f} s  {look.clients:3d} clients  replicas {bars:8}  "
        f"{look.tokens_per_s:7.1f} tokens/s",
        flush=True,
    )


async def play(url: str, model: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """Play the step up and down, and return what was seen."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, trust_env=False) as client:
        crowd = Crowd(client, url, model, chosen.output_len)
        watch = Watch(client, url, crowd)
        crowd.resize(1)
        await watch.until(lambda look: look.ready == 1, chosen.quiet_s)
        up_s = watch.now_s
        crowd.resize(chosen.clients)
        await watch.until(lambda look: look.ready == chosen.max_replicas, chosen.crowded_s)
        all_s = watch.now_s
        await watch.until(lambda look: True, chosen.crowded_s)
        down_s = watch.now_s
        crowd.resize(1)
        await watch.until(lambda look: look.ready == 1 and not look.draining, chosen.quiet_s)
        await crowd.leave()
    return summarize(crowd.trials, watch, up_s=up_s, all_s=all_s, down_s=down_s)


def summarize(
    trials: Sequence[RequestTrial], watch: Watch, *, up_s: float, all_s: float, down_s: float
) -> dict[str, Any]:
    """Return how soon the replicas came and went, what became of each request, and the looks."""

    def within(begin_s: float, end_s: float) -> list[RequestTrial]:
        return [t for t in trials if begin_s <= t.started_s - watch.began_s < end_s]

    def first(holds: Callable[[Look], bool], since_s: float) -> float:
        return next(look.at_s for look in watch.looks if look.at_s >= since_s and holds(look))

    most = max(look.ready for look in watch.looks)
    came_s = {n: first(lambda look, n=n: look.ready >= n, up_s) - up_s for n in range(2, most + 1)}  # type: ignore[misc]
    second_s = up_s + came_s[2]
    return {
        "seconds_to_decide": round(first(lambda look: look.starting > 0, up_s) - up_s, 1),
        "seconds_to_replicas_ready": {str(n): round(s, 1) for n, s in came_s.items()},
        "seconds_to_one_again": round(
            first(lambda look: look.ready == 1 and not look.draining, down_s) - down_s, 1
        ),
        "requests": {
            "asked": len(trials),
            "whole": sum(trial.is_whole for trial in trials),
            "refused": sum(trial.status in _REFUSED for trial in trials),
            "lost": sum(not t.is_whole and t.status not in _REFUSED for t in trials),
        },
        "one_client": _speed(within(0, up_s), watch, 0, up_s),
        "crowd_on_one_replica": _speed(within(up_s, second_s), watch, up_s, second_s),
        "crowd_on_all": _speed(within(all_s, down_s), watch, all_s, down_s),
        "looks": [asdict(look) for look in watch.looks],
        "first_tokens": [
            [round(t.started_s - watch.began_s, 2), round(t.ttft_s, 3)]
            for t in trials
            if t.ttft_s is not None
        ],
        "steps_s": {"up": round(up_s, 1), "all": round(all_s, 1), "down": round(down_s, 1)},
    }


def _speed(
    trials: Sequence[RequestTrial], watch: Watch, begin: float, end: float
) -> dict[str, Any]:
    firsts = [trial.ttft_s for trial in trials if trial.ttft_s is not None]
    rates = [look.tokens_per_s for look in watch.looks if begin + _LOOK_S < look.at_s <= end]
    return {
        "requests": len(trials),
        "tokens_per_s": round(sum(rates) / len(rates), 1) if rates else 0.0,
        "first_token_p50_s": round(percentile(firsts, 50), 3) if firsts else None,
        "first_token_p99_s": round(percentile(firsts, 99), 3) if firsts else None,
    }


def options() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="", help="a folder or GGUF; the embedded one without")
    parser.add_argument("--max-replicas", type=int, default=min(4, max(2, os.cpu_count() or 2)))
    parser.add_argument("--clients", type=int, default=40)
    parser.add_argument("--scale-by", default="queue")
    parser.add_argument("--scale-target", type=float, default=12.0)
    parser.add_argument("--upscale-delay", type=float, default=3.0)
    parser.add_argument("--downscale-delay", type=float, default=10.0)
    parser.add_argument("--output-len", type=int, default=32)
    parser.add_argument("--quiet-s", type=float, default=15.0)
    parser.add_argument("--crowded-s", type=float, default=45.0)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "scaling.svg")
    return parser.parse_args()


def main() -> None:
    """Play it, print the sum, and write the JSON and the picture."""
    chosen = options()
    flags = ["--min-replicas", "1", "--max-replicas", str(chosen.max_replicas), "--cores", "auto"]
    flags += ["--scale-by", chosen.scale_by, "--scale-target", str(chosen.scale_target)]
    flags += ["--upscale-delay", str(chosen.upscale_delay)]
    flags += ["--downscale-delay", str(chosen.downscale_delay)]
    load_before = os.getloadavg()
    with endpoint(chosen.model, flags) as (url, model):
        document = asyncio.run(play(url, model, chosen))
    document = {
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores shared by replicas and clients",
        "load_before": [round(each, 1) for each in load_before],
        "versions": {name: version(name) for name in ("torch", "uvicorn", "starlette", "httpx")},
        "model": model,
        "flags": flags,
        "clients": chosen.clients,
        "output_len": chosen.output_len,
        **document,
    }
    chosen.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    draw(document, chosen.picture)
    told = {name: document[name] for name in document if name not in ("looks", "first_tokens")}
    print(json.dumps(told, indent=2))
    print(f"picture: {chosen.picture}")


if __name__ == "__main__":
    main()
