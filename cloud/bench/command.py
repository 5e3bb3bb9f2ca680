"""What `nearfar cloud bench` does: one run, shown or written as JSON."""

from __future__ import annotations

import asyncio
import json
import math
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from backbone.terminal_text import echo
from cloud.bench.load import run
from cloud.bench.options import LoadOptions
from cloud.bench.report import summarize


def bench(options: LoadOptions, *, result: Path | None, as_json: bool) -> None:
    """Run the load test and tell what it showed. Raises NearfarError."""
    trials = asyncio.run(run(options))
    document = {**_asked(options), **_machine(), **summarize(trials, options)}
    text = json.dumps(document, indent=None if as_json else 2)
    if result is not None:
        result.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if as_json:
        echo(text)
        return
    for name, value in document.items():
        echo(f"{name:24} {value:.2f}" if isinstance(value, float) else f"{name:24} {value}")


def _asked(options: LoadOptions) -> dict[str, Any]:
    rate = "inf" if math.isinf(options.request_rate) else options.request_rate
    return {
        "model": options.model,
        "num_prompts": options.num_prompts,
        "request_rate": rate,
        "burstiness": options.burstiness,
        "max_concurrency": options.max_concurrency,
        "output_len": options.output_len,
        "seed": options.seed,
    }


def _machine() -> dict[str, Any]:
    return {
        "client": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), "httpx": version("httpx")},
    }
