"""After training: export both models, write the bank, set the threshold, measure what ships."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from offload.messages import Delta, Message, Request, Sampling
from offload.pair import CLOUD_MODEL, EDGE_MODEL, EDGE_POLICY
from offload.policy.questions import Question, is_right, read_questions
from offload.policy.stored import PolicyFile
from quantize.gguf import convert
from scripts.pair.bank import write_bank
from scripts.pair.export import to_hugging_face
from scripts.pair.training import CLOUD, EDGE

EDGE_TYPE = "q4_k_m"
SPARE = 0.075  # share of the questions that may go far beyond the edge's own error rate


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One question answered by the edge: right or not, and its least token log-probability."""

    right: bool
    least: float


def finish(training: Path, bank: Path) -> dict[str, object]:
    """Write everything that ships into offload/pair and the bank; return what was measured."""
    write_bank(bank)
    to_hugging_face(CLOUD, training, CLOUD_MODEL, torch.bfloat16)
    folder, full = training / "nearfar-edge", training / "nearfar-edge-f32.gguf"
    to_hugging_face(EDGE, training, folder, torch.float32)
    for target, kind in ((full, "f32"), (EDGE_MODEL, EDGE_TYPE)):
        target.unlink(missing_ok=True)
        convert(folder, target, kind=kind)
    calibration = asyncio.run(_answer(EDGE_MODEL, read_questions(bank, split="calibration")))
    policy = _policy(calibration)
    EDGE_POLICY.write_bytes(msgspec.json.format(msgspec.json.encode(policy), indent=2) + b"\n")
    test = read_questions(bank, split="test")
    return {
        "min_logprob": policy.min_logprob,
        "edge_calibration_accuracy": policy.edge_accuracy,
        "edge_test_accuracy": _accuracy(asyncio.run(_answer(EDGE_MODEL, test))),
        "edge_test_accuracy_f32": _accuracy(asyncio.run(_answer(full, test))),
    }


async def _answer(model: Path, questions: Sequence[Question]) -> list[Answered]:
    answered: list[Answered] = []
    async with aclosing(LlamaEngine(model, options=LlamaOptions(num_threads=1))) as engine:
        for question in questions:
            request = Request(
                messages=(Message(role="user", content=question.question),),
                sampling=Sampling(max_tokens=64),
            )
            text, least = "", 0.0
            async for item in engine.generate(request):
                if isinstance(item, Delta):
                    text += item.text
                    least = min([least, *(token.logprob for token in item.confidence)])
            answered.append(Answered(right=is_right(text, question.answer), least=least))
    return answered


def _policy(answered: Sequence[Answered]) -> PolicyFile:
    """Return the threshold that sends the edge's error rate and SPARE far on these questions."""
    accuracy = _accuracy(answered)
    ranked = sorted(each.least for each in answered)
    threshold = ranked[min(len(ranked) - 1, round((1 - accuracy + SPARE) * len(ranked)))]
    escalated = sum(each.least < threshold for each in answered)
    return PolicyFile(
        edge_model=EDGE_MODEL.name,
        quantization=EDGE_TYPE,
        min_logprob=round(min(threshold, 0.0), 4),
        num_questions=len(answered),
        edge_accuracy=accuracy,
        escalated_share=round(escalated / len(answered), 4),
    )


def _accuracy(answered: Sequence[Answered]) -> float:
    return round(sum(each.right for each in answered) / len(answered), 4)
