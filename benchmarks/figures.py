"""The tables of docs/measured.md: each row's figures read from the JSON of the benchmark behind it.

A benchmark is a command, the JSON it writes, and the code it measures. `keep_mark` writes into
that JSON the day and the commit it was measured at, and every row of the page shows both, so that
a reader sees how old a figure is; `changed_since` tells which commits touched its code after it.
"""

from __future__ import annotations

import datetime
import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "measured.md"
BEGIN = "<!-- measured {}: written by scripts/bench -->\n"
END = "<!-- end of measured -->"

Json = Any


@dataclass(frozen=True)
class Benchmark:
    """A command, the result it writes beside its script, and what it measures."""

    result: str
    command: tuple[str, ...]
    code: tuple[str, ...]
    needs: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return ROOT / "benchmarks" / self.result

    def read(self) -> Json:
        """Return the result. Raises OSError where none was kept, ValueError where it is damaged."""
        return json.loads(self.path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Row:
    """A line of a table: what was measured, ours, the other side, each read from one result."""

    what: str
    result: str
    ours: Callable[[Json], str]
    other: str | Callable[[Json], str]
    part: str = ""  # of the result, where parts are measured one by one and each has its mark


# What each needs that a checkout lacks is an option of `scripts/bench` of the same name, which
# takes the place of {models} and its like; `by hand` is what needs more: its script says what.
BENCHMARKS = (
    Benchmark(
        "demo.json", ("demo",), ("offload", "edge/llama", "engine/torch"), needs=("by hand",)
    ),
    Benchmark(
        "edge_models.json",
        ("edge", "--models", "{models}", "--apart"),
        ("edge/llama", "engine", "edge/device", "edge/near"),
        needs=("models",),
        quick=("--quick",),
    ),
    Benchmark(
        "kv_real.json",
        ("kv_real", "--models", "{models}", "--text", "{text}", "--out", "{result}"),
        ("edge/llama/kv_cache.py", "edge/llama/kv_types.py", "engine/window.py"),
        needs=("models", "text"),
        quick=("--quick",),
    ),
    Benchmark(
        "techniques.json",
        ("techniques", "--near", "{near}", "--far", "{folder}", "--write"),
        ("edge/llama", "engine", "cloud/engine"),
        needs=("near", "folder"),
        quick=("--quick",),
    ),
    Benchmark("policy_real.json", ("policy_real",), ("offload/policy",)),
    Benchmark("together.json", ("together",), ("offload/hybrid", "offload/policy")),
    Benchmark(
        "together_lend.json",
        ("together_lend",),
        ("offload/hybrid", "offload/policy/serving"),
        needs=("by hand",),
    ),
    Benchmark("entities.json", ("entities",), ("offload/egress/privacy",), needs=("by hand",)),
    Benchmark(
        "documents.json",
        ("documents", "--text", "{text}"),
        ("offload/documents",),
        needs=("text",),
    ),
    Benchmark(
        "kv_keep.json",
        ("kv_keep", "{folder}", "{text}"),
        ("engine/torch/kv",),
        needs=("folder", "text"),
    ),
    Benchmark(
        "hybrid_real.json",
        ("hybrid_real",),
        ("offload/hybrid", "offload/policy", "offload/link"),
        needs=("by hand",),
    ),
    Benchmark(
        "policy_learn_pair.json",
        ("policy_learn_pair",),
        ("offload/policy/learning",),
        needs=("by hand",),
    ),
    Benchmark(
        "lm_eval_sides.json",
        ("lm_eval_sides",),
        ("serve", "engine/torch", "edge/llama"),
        needs=("by hand",),
    ),
    Benchmark("autoscale.json", ("autoscale",), ("cloud/fleet/autoscale.py",)),
    Benchmark("scaling.json", ("scaling", "{near}"), ("cloud/fleet",), needs=("by hand",)),
    Benchmark("batch_priority.json", ("batch_priority",), ("engine/torch",), needs=("by hand",)),
    Benchmark("mlperf.json", ("mlperf",), ("cloud",), needs=("by hand",)),
    Benchmark("cloud_kv.json", ("cloud_kv",), ("engine/torch/kv",), needs=("by hand",)),
    Benchmark("quantize_cloud.json", ("quantize",), ("quantize",), needs=("by hand",)),
    Benchmark("gptq_text.json", ("gptq_text",), ("quantize",), needs=("by hand",)),
    Benchmark("quantize_scale_memory.json", (), ("quantize",), needs=("by hand",)),
    Benchmark("quantize_scale_time.json", (), ("quantize",), needs=("by hand",)),
    Benchmark("small_gpu_threads.json", (), ("edge/small_gpu",), needs=("by hand",)),
    Benchmark(
        "policy_learn.json",
        ("policy_learn", "--questions", "{questions}"),
        ("offload/policy/learning",),
        needs=("questions",),
    ),
    Benchmark("policy.json", ("policy",), ("offload/policy",), needs=("by hand",)),
    Benchmark("routing.json", ("routing",), ("offload/policy",), needs=("by hand",)),
    Benchmark("edge.json", ("edge", "--apart"), ("edge/llama", "engine"), quick=("--quick",)),
    Benchmark("ring_attention.json", ("ring_attention",), ("engine/torch/kv",)),
    Benchmark("chat_start.json", ("chat_start",), ("edge/chat",)),
    Benchmark("schemas.json", ("schemas", "{near}"), ("engine",), needs=("near",)),
    Benchmark("templates.json", ("templates",), ("backbone",), needs=()),
    Benchmark(
        "cloud.json",
        ("cloud", "--json", "{result}"),
        ("engine/torch", "cloud/engine", "backbone"),
        quick=("--quick",),
    ),
    Benchmark("fair.json", ("fair",), ("engine/torch", "offload/link")),
    Benchmark("load.json", ("load", "--json", "{result}"), ("cloud", "serve")),
    Benchmark("face_cpu.json", ("face_cpu",), ("serve", "backbone/event_loop.py")),
    Benchmark("soak.json", ("soak",), ("cloud", "serve"), needs=("by hand",)),
    Benchmark("aborts.json", ("aborts",), ("serve",)),
    Benchmark("link.json", ("link", "--write"), ("offload/link",)),
    Benchmark("link_chaos.json", ("link_chaos", "--full"), ("offload/link",)),
    Benchmark("link_fuzz.json", ("link_fuzz", "--write"), ("offload/link",)),
    Benchmark("privacy.json", ("privacy", "--json", "{result}"), ("offload/egress/privacy",)),
    Benchmark(
        "privacy_leak.json",
        ("privacy", "--leak", "--json", "{result}"),
        ("offload/egress", "offload/hybrid"),
    ),
    Benchmark(
        "quantize_stories3M.json",
        ("quantize", "MODEL", "--json", "{result}"),
        ("quantize",),
        needs=("by hand",),
    ),
    Benchmark(
        "quantize_smollm2.json",
        ("quantize", "MODEL", "--gguf-only", "--seeds", "1", "--json", "{result}"),
        ("quantize",),
        needs=("by hand",),
    ),
    Benchmark(
        "quantize_smollm2_moved.json",
        ("quantize", "MODEL", "--gguf-only", "--moved", "--seeds", "1", "--json", "{result}"),
        ("quantize",),
        needs=("by hand",),
    ),
    Benchmark(
        "quantize_sensitivity.json",
        ("quantize_sensitivity", "{folder}", "--text", "{text}", "--every", "9"),
        ("quantize/curvature.py",),
        needs=("folder", "text"),
    ),
    Benchmark(
        "quantize_scale_gptqmodel.json",
        ("quantize_scale", "--jobs", "gptq", "gptqmodel", "--json", "{result}"),
        ("quantize",),
        needs=("by hand",),
    ),
    Benchmark(
        "small_gpu_kv.json",
        ("small_gpu", "kv", "{folder}", "--json", "{result}"),
        ("edge/small_gpu",),
        needs=("folder",),
    ),
    Benchmark(
        "small_gpu_linear.json", ("small_gpu", "linear", "--json", "{result}"), ("quantize",)
    ),
    Benchmark(
        "small_gpu_batch.json",
        ("small_gpu_batch", "WORK", "--json", "{result}"),
        ("edge/small_gpu",),
        needs=("by hand",),
    ),
)


def table(rows: Sequence[Row]) -> str:
    """Return rows as a Markdown table. Raises KeyError where a result lacks a figure."""
    lines = ["| what | nearfar | the other side | measured |", "|---|---|---|---|"]
    marks = _marks()
    results = {each.result: each.read() for each in BENCHMARKS if each.path.exists()}
    for row in rows:
        result = results[row.result]
        other = row.other if isinstance(row.other, str) else row.other(result)
        parts = result.get("rows", {}) if isinstance(result, dict) else {}
        known = parts.get(row.part, {}).get("measured") or marks[row.result]
        mark = f"{known['date']} `{known['commit']}`"
        link = f"[{row.result.removesuffix('.json')}](../benchmarks/{row.result})"
        lines.append(f"| {row.what} | {row.ours(result)} | {other} | {link}, {mark} |")
    return "\n".join(lines) + "\n"


def page(tables: Mapping[str, Sequence[Row]]) -> str:
    """Return docs/measured.md with its tables, by name, made anew."""
    text = PAGE.read_text(encoding="utf-8")
    for name, rows in tables.items():
        begin = BEGIN.format(name)
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(END)
        text = f"{before}{begin}{table(rows)}{END}{after}"
    return text


MARKS = ROOT / "benchmarks" / "measured.json"


def _marks() -> dict[str, dict[str, str]]:
    return dict(json.loads(MARKS.read_text(encoding="utf-8")))


def known_mark(result: str) -> str:
    """Return when and at which commit a result was measured."""
    known = _marks().get(result, {"date": "?", "commit": "?"})
    return f"{known['date']} `{known['commit']}`"


def mark() -> dict[str, str]:
    """Return the day and the commit at hand; `+` where code differs from it, `?` without git."""
    head = _git("rev-parse", "--short", "HEAD") or "?"
    changed = _git("status", "--porcelain", "--", "*.py")
    return {"date": datetime.date.today().isoformat(), "commit": head + "+" * bool(changed)}


def keep_mark(result: str) -> None:
    """Keep the day and the commit that a result was measured at."""
    marks = _marks() | {result: mark()}
    MARKS.write_text(json.dumps(dict(sorted(marks.items())), indent=1) + "\n", encoding="utf-8")


def changed_since(benchmark: Benchmark) -> int | None:
    """Return how many commits touched a benchmark's code after it; None where git cannot tell."""
    if (known := _marks().get(benchmark.result)) is None:
        return None
    count = _git("rev-list", "--count", f"{known['commit']}..HEAD", "--", *benchmark.code)
    return int(count) if count else None


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""
