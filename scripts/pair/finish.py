"""Finish of a training: export both models, write the bank, fit the policy, measure what ships."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

import msgspec
import torch

from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from offload.collect import collect
from offload.messages import Message, Request, Sampling
from offload.pair import CLOUD_MODEL, EDGE_MODEL
from offload.policy.fitting.questions import Question, is_right, read_questions
from quantize.gguf import convert
from scripts.pair.bank import write_bank
from scripts.pair.calibration import calibrate_pair
from scripts.pair.export import to_hugging_face
from scripts.pair.training import CLOUD, EDGE

EDGE_TYPE = "q4_k_m"


def finish(training: Path, bank: Path) -> dict[str, object]:
    """Write everything that ships into offload/pair and the bank; return what was measured."""
    write_bank(bank)
    to_hugging_face(CLOUD, training, CLOUD_MODEL, torch.bfloat16)
    folder, full = training / "nearfar-edge", training / "nearfar-edge-f32.gguf"
    to_hugging_face(EDGE, training, folder, torch.float32)
    for target, kind in ((full, "f32"), (EDGE_MODEL, EDGE_TYPE)):
        target.unlink(missing_ok=True)
        convert(folder, target, kind=kind)
    rule = calibrate_pair(training / "policy")
    test = read_questions(bank, split="test")
    return {
        "calibration": msgspec.to_builtins(rule.policy.found),
        "edge_test_accuracy": _accuracy(asyncio.run(_answer(EDGE_MODEL, test))),
        "edge_test_accuracy_f32": _accuracy(asyncio.run(_answer(full, test))),
    }


async def _answer(model: Path, questions: Sequence[Question]) -> list[bool]:
    """Return which questions the edge gets right."""
    right: list[bool] = []
    async with aclosing(LlamaEngine(model, options=LlamaOptions(num_threads=1))) as engine:
        for question in questions:
            request = Request(
                messages=(Message(role="user", content=question.question),),
                sampling=Sampling(max_tokens=64),
            )
            answer = await collect(engine.generate(request))
            right.append(is_right(answer.written, question.answer))
    return right


def _accuracy(right: Sequence[bool]) -> float:
    return round(sum(right) / len(right), 4)
