"""On a GPU every path writes what the reference writes; not run where there is none."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from cloud.engine.engine import CloudEngine
from engine.torch.options import EngineOptions
from tests.cloud.golden import answer, ask, reference_tokens, tokens_of
from tests.tiny_checkpoints import write_checkpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PROMPTS = ["the cat", "what is seventeen plus twenty-five, and how many seconds has an hour?", "é"]


async def first_answers(folder: Path, **options: Any) -> list[Any]:
    engine = CloudEngine(folder, options=EngineOptions(device="cuda", **options))
    requests = [ask(prompt, max_tokens=30) for prompt in PROMPTS]
    answers = await asyncio.gather(*(answer(engine, request) for request in requests))
    await engine.aclose()
    return [deltas for deltas, _ in answers]


@pytest.mark.parametrize("family", ["qwen3-tied", "mistral-window"])
@pytest.mark.parametrize(
    "options",
    [
        {"attention_backend": "torch"},
        {"attention_backend": "triton"},
        {"attention_backend": "triton", "enforce_eager": False},
        {"attention_backend": "torch", "fuse_operators": False},
    ],
    ids=["reference", "triton", "graphs", "unfused"],
)
async def test_float32_tokens_equal_transformers(
    family: str, options: dict[str, Any], tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path, family)
    answers = await first_answers(folder, dtype="float32", **options)
    expected = [reference_tokens(folder, prompt, 30) for prompt in PROMPTS]
    assert [tokens_of(deltas) for deltas in answers] == expected


@pytest.mark.parametrize("eager", [True, False])
async def test_half_precision_paths_agree_on_the_first_token(tmp_path: Path, eager: bool) -> None:
    folder = write_checkpoint(tmp_path, "qwen3-tied")
    reference = await first_answers(folder, attention_backend="torch")
    fast = await first_answers(
        folder, attention_backend="triton+varlen", enforce_eager=eager, block_size=32
    )
    for a, b in zip(reference, fast, strict=True):
        assert a[0].confidence[0].logprob == pytest.approx(b[0].confidence[0].logprob, abs=0.2)
