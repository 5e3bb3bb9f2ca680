"""Every row that is measured on a GPU runs here in miniature; no figure is taken from it."""

from __future__ import annotations

import pytest

from benchmarks.cloud_gpu import MINIATURE, Setup, decode, long_prefill, throughput


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


def test_a_quick_look_changes_sizes_alone() -> None:
    quick = Setup().quicker()
    assert (quick.device, quick.on, quick.off) == ("cuda", Setup().on, Setup().off)
    assert len(quick.shapes) == 1 and quick.num_requests < Setup().num_requests
