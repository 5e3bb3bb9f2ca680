"""Policy of the embedded pair: its questions, both models' answers, and the fit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from random import Random

from cloud.engine.engine import CloudEngine
from edge.llama.gguf_file import fingerprint
from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from offload.messages import Sampling
from offload.pair import CLOUD_MODEL, EDGE_MODEL, EDGE_POLICY
from offload.policy.fitting.answer_table import AnswerTable
from offload.policy.fitting.ask_questions import QuestionOptions
from offload.policy.fitting.calibrator import CalibrationOptions, calibrate
from offload.policy.fitting.labelled_questions import LabelTables, label_questions
from offload.policy.fitting.questions import Question, exact
from offload.policy.serving.calibrated import CalibratedRule, save_policy
from offload.policy.serving.policy_file import Pairing
from scripts.pair import phrases, talk
from scripts.pair.bank import ASKED, make_bank

NUM_FRESH, SEED = 1600, 20_260_303
MAX_TOKENS = 160
KV_TYPE = "q8_0"


def calibration_questions() -> list[Question]:
    """Return the bank's calibration split, fresh questions of its skills, and small talk.

    No question of the bank's test split is among them.
    """
    bank = make_bank()
    chosen = [_question(each.question, each.answer) for split, each in bank if split != "test"]
    seen, random = {each.question for _, each in bank}, Random(SEED)
    while len(chosen) < len(bank) + NUM_FRESH:
        example = ASKED[len(chosen) % len(ASKED)](random)
        if example.question not in seen:
            seen.add(example.question)
            chosen.append(_question(example.question, example.answer))
    return [*chosen, *_talk(random)]


def bank_questions(split: str) -> list[Question]:
    """Return one split of the bank."""
    return [_question(each.question, each.answer) for of, each in make_bank() if of == split]


def _talk(random: Random) -> Iterator[Question]:
    """Yield greetings and their like: they have several good answers, which looks like doubt."""
    for asked, answers in phrases.SMALL_TALK:
        for question in asked:
            yield _question(question, *answers)
    for asked, answer in phrases.FACTS_ON_NEARFAR:
        for question in asked:
            yield _question(question, answer)
    seen: set[str] = set()
    for skill in [talk.about_nearfar] * 60 + [talk.beyond_me] * 40:
        example = skill(random)
        if example.question not in seen:
            seen.add(example.question)
            yield _question(example.question, example.answer)


def _question(question: str, answer: str, *others: str) -> Question:
    return Question(question=question, answer=answer, others=others, id=question[:40])


def label_pair(
    edge_model: Path,
    questions: list[Question],
    folder: Path,
    *,
    on_progress: Callable[[int], None] = lambda _: None,
) -> LabelTables:
    """Ask both models all questions; what is already in `folder` is not asked again.

    The far answers are kept once for all near models.
    """
    near = folder / f"{fingerprint(edge_model)[:16]}.near.jsonl"
    labels = LabelTables(AnswerTable(near), AnswerTable(folder / f"{CLOUD_MODEL.name}.far.jsonl"))
    asyncio.run(_label(edge_model, questions, labels, on_progress))
    return labels


async def _label(
    edge_model: Path,
    questions: list[Question],
    labels: LabelTables,
    on_progress: Callable[[int], None],
) -> None:
    far = CloudEngine(CLOUD_MODEL)
    near = LlamaEngine(edge_model, options=LlamaOptions(num_threads=1, kv_cache_dtype=KV_TYPE))
    async with aclosing(near), aclosing(far):
        how = QuestionOptions(grader=exact, sampling=Sampling(max_tokens=MAX_TOKENS))
        await label_questions(questions, near, far, labels, how, on_progress=on_progress)


def pairing_of(edge_model: Path, quantization: str) -> Pairing:
    """Return whom a policy of the pair is for."""
    return Pairing(
        edge_model=edge_model.name,
        edge_hash=fingerprint(edge_model),
        quantization=quantization,
        kv_cache_dtype=KV_TYPE,
        cloud_model=CLOUD_MODEL.name,
    )


def calibrate_pair(
    folder: Path, on_progress: Callable[[int], None] = lambda _: None
) -> CalibratedRule:
    """Calibrate the shipped edge model and write its policy into offload/pair."""
    questions = calibration_questions()
    labels = label_pair(EDGE_MODEL, questions, folder, on_progress=on_progress)
    options = CalibrationOptions(max_prior_labels=500)
    rule = calibrate(*labels.of(questions), pairing_of(EDGE_MODEL, "q4_k_m"), options)
    save_policy(rule, EDGE_POLICY)
    return rule
