"""A warm engine has computed every kind of step, and holds nothing of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cloud.engine.engine import CloudEngine
from engine.torch.kv.batch import StepBatch
from engine.torch.options import EngineOptions
from tests.cloud.golden import answer, ask, reference_tokens, tokens_of
from tests.tiny_checkpoints import write_checkpoint


@pytest.mark.parametrize("kind", ["auto", "int8"])
async def test_warming_up_writes_to_the_scratch_block_alone(kind: Any, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "mistral-window")
    options = EngineOptions(device="cpu", kv_cache_dtype=kind, max_model_len=64)
    engine = CloudEngine(folder, options=options)
    runner = engine.runner
    cache = engine.cache
    seen: list[list[int]] = []
    compute = runner.compute

    def noted(batch: StepBatch) -> object:
        seen.append([row.num_new for row in batch.rows])
        return compute(batch)

    runner.compute = noted
    runner.warm_up(cache)
    assert seen == [[1], [cache.block_size], [1, cache.block_size]]
    for keys, values in cache.flat:
        assert not keys[: cache.scratch_slot].float().any()
        assert not values[: cache.scratch_slot].float().any()
        assert keys[cache.scratch_slot :].float().any()
    if kind == "auto":
        deltas, _ = await answer(engine, ask("the cat", max_tokens=12))
        assert tokens_of(deltas) == reference_tokens(folder, "the cat", 12)
    await engine.aclose()
    engine.batching.check_integrity()
