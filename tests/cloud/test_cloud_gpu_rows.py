"""What wants a GPU is rehearsed here on a CPU: every line runs, and no figure is taken from it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_parts
from benchmarks.cloud_gpu import MINIATURE, Row, Setup, decode, long_prefill, throughput
from benchmarks.gpu_checks import CHECKS
from benchmarks.gpu_parts import parts_of, run_part

ROOT = Path(__file__).parents[2]


async def test_decode_tells_its_share_and_what_to_look_at() -> None:
    row = await decode(MINIATURE)
    told = row[MINIATURE.shapes[0]]
    assert told["of_limit"] > 0 and told["over_off"] > 0
    assert told["counts"]["on"]["steps"] >= MINIATURE.num_decoded
    assert told["counts"]["on"]["kv_blocks"] > 0 and told["counts"]["on"]["preemptions"] == 0


@pytest.mark.slow
async def test_throughput_runs_both_sides() -> None:
    row = await throughput(MINIATURE)
    low, high = MINIATURE.lengths
    assert low <= row["tokens"] / MINIATURE.num_requests <= high
    assert set(row["tokens_per_s"]) == {"ours", "generate_batch"}


async def test_a_long_prompt_is_told_against_the_rate_of_products() -> None:
    assert (await long_prefill(MINIATURE))["of_matmul_rate"] > 0


@pytest.mark.parametrize("name", CHECKS)
async def test_each_check_holds_on_a_cpu(name: str) -> None:
    row = await CHECKS[name](MINIATURE)
    assert row.get("right") or (name == "check-graphs" and "need a GPU" in row["left out"])


async def test_auto_is_told_against_every_backend() -> None:
    row = await gpu_parts.auto(MINIATURE)
    assert 0 < row["of_best"] <= 1 and "left out" in row["tokens_per_s"]["flash_attn"]


async def test_a_row_that_fails_or_has_no_time_left_is_told_and_the_next_one_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def broken(setup: Setup) -> Row:
        raise RuntimeError("no kernel image")

    async def endless(setup: Setup) -> Row:
        await asyncio.Event().wait()
        return {}

    async def quick(setup: Setup) -> Row:
        return {"ratio": 1}

    kept: dict[str, Row] = {}
    await run_part({"a": broken, "b": quick}, MINIATURE, kept.__setitem__)
    assert kept == {"a": {"failed": "RuntimeError: no kernel image"}, "b": {"ratio": 1}}
    monkeypatch.setattr(gpu_parts, "PART_S", 0.05)
    await run_part({"c": endless, "d": quick}, MINIATURE, kept.__setitem__)
    assert "TimeoutError" in kept["c"]["failed"] and "not reached" in kept["d"]


def test_all_rows_are_in_one_part_and_the_checks_come_first() -> None:
    parts = parts_of(Setup())
    assert list(parts[0]) == list(CHECKS)
    names = [name for part in parts for name in part]
    assert len(names) == len(set(names))
    assert {f"decode/{shape}" for shape in Setup().shapes} < set(names)
    assert next(iter(parts[1])) == "decode/llama-3.1-8b"


def test_without_a_gpu_it_says_what_can_be_done(tmp_path: Path) -> None:
    command = [sys.executable, "scripts/gpu", "--json", str(tmp_path / "gpu.json")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={"CUDA_VISIBLE_DEVICES": ""}
    )
    assert done.returncode == 1 and "--rehearse" in done.stdout
    assert not (tmp_path / "gpu.json").exists()


def test_a_later_part_goes_on_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def quick(setup: Setup) -> Row:
        return {"ratio": 1}

    out = tmp_path / "gpu.json"
    monkeypatch.setattr(gpu_parts.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_parts, "_machine", lambda: {"gpu": "none"})
    monkeypatch.setattr(gpu_parts, "parts_of", lambda setup: [{"a": quick}, {"b": quick}])
    for part in ("1", "2"):
        monkeypatch.setattr(sys, "argv", ["gpu", "--part", part, "--json", str(out)])
        assert gpu_parts.main() == 0
    assert json.loads(out.read_text())["rows"] == {"a": {"ratio": 1}, "b": {"ratio": 1}}
