"""Policy learnt without labels on the embedded pair: how much it asks far, and is right.

    python benchmarks/policy_learn_pair.py [--folder build/policy_learn]

Both models answer 300 calibration questions and the test split of the bank (kept in the folder).
From the 300 a policy is fitted to the truth, to whether the two agree with the far model taken for
perfect, and to the same with its errors told from those labels; each decides the test questions, as
plain `auto`. Splits into fitted and held half are drawn anew. Writes policy_learn_pair.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
from collections import defaultdict
from contextlib import aclosing
from pathlib import Path

import msgspec
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cloud.engine.engine import CloudEngine  # noqa: E402
from edge.llama.options import LlamaOptions  # noqa: E402
from edge.llama.runtime import LlamaEngine  # noqa: E402
from offload.aims import parse_aim  # noqa: E402
from offload.messages import Sampling  # noqa: E402
from offload.pair import CLOUD_MODEL, EDGE_MODEL  # noqa: E402
from offload.policy.fitting.answer_table import AnswerTable, key_of  # noqa: E402
from offload.policy.fitting.ask_questions import QuestionOptions  # noqa: E402
from offload.policy.fitting.calibrator import (  # noqa: E402
    CalibrationOptions,
    calibrate,
    judged,
)
from offload.policy.fitting.far_labels import agrees  # noqa: E402
from offload.policy.fitting.labelled_questions import (  # noqa: E402
    LabelledRow,
    LabelTables,
    label_questions,
)
from offload.policy.fitting.questions import Question, exact  # noqa: E402
from offload.policy.serving.calibrated import CalibratedRule  # noqa: E402
from offload.policy.serving.consistency import QuestionForm  # noqa: E402
from scripts.pair.calibration import (  # noqa: E402
    KV_TYPE,
    MAX_TOKENS,
    bank_questions,
    calibration_questions,
    pairing_of,
)

NUM_QUESTIONS, NUM_SPLITS = 300, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "policy_learn")
    folder = parser.parse_args().folder
    every, test = calibration_questions(), bank_questions("test")
    drawn = np.random.default_rng(0).permutation(len(every))[:NUM_QUESTIONS]
    fit = list({key_of(every[at]): every[at] for at in drawn}.values())
    labels = LabelTables(
        AnswerTable(folder / "embed.near.jsonl"), AnswerTable(folder / "embed.far.jsonl")
    )
    asyncio.run(_ask([*fit, *test], labels))
    same = {key: said for q in fit if (said := _same(q, labels, key := key_of(q))) is not None}
    told = [q for q in fit if key_of(q) in same]
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for seed in range(NUM_SPLITS):
        options = CalibrationOptions(use_probe=False, seed=seed)
        pairing = pairing_of(EDGE_MODEL, "q4_k_m")
        truth = calibrate(*labels.of(fit), pairing, options)
        rows = [_labelled(labels, key_of(q), same[key_of(q)]) for q in told]
        perfect = calibrate(told, rows, pairing, options)
        errs = calibrate(told, rows, pairing, options, by_agreement=True)
        ways = {"truth": truth, "far is perfect": perfect, "far errs": errs}
        for way, rule in ways.items():
            found[way].append(_decided(rule, test, labels))
    far_right = [labels.far.found[key_of(q)].right for q in fit]
    report = {
        "questions": len(fit),
        "comparable": len(told),
        "label_is_truth": float(
            np.mean([same[key_of(q)] == labels.near.found[key_of(q)].right for q in told])
        ),
        "far_right": float(np.mean(far_right)),
        "far_right_as_told_by_labels": errs.policy.found.cloud_accuracy,
        "decided": {
            way: {
                "asked_far": round(float(np.mean([each[0] for each in kept])), 4),
                "right": round(float(np.mean([each[1] for each in kept])), 4),
            }
            for way, kept in found.items()
        },
        "machine": {"python": platform.python_version(), "numpy": np.__version__},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")


async def _ask(questions: list[Question], labels: LabelTables) -> None:
    far = CloudEngine(CLOUD_MODEL)
    near = LlamaEngine(EDGE_MODEL, options=LlamaOptions(num_threads=1, kv_cache_dtype=KV_TYPE))
    async with aclosing(near), aclosing(far):
        how = QuestionOptions(
            grader=exact,
            sampling=Sampling(max_tokens=MAX_TOKENS),
            keep_text=True,
            keep_states=False,
        )
        await label_questions(questions, near, far, labels, how)


def _same(question: Question, labels: LabelTables, key: str) -> bool | None:
    near, far = labels.near.found[key].text, labels.far.found[key].text
    return agrees(near, far, QuestionForm.read(question.question))


def _labelled(labels: LabelTables, key: str, right: bool) -> LabelledRow:
    near = msgspec.structs.replace(labels.near.found[key], right=right)
    return LabelledRow(near=near, far_right=True)


def _decided(
    rule: CalibratedRule, test: list[Question], labels: LabelTables
) -> tuple[float, float]:
    """Return the share asked far and the share right, of test questions under plain auto."""
    limit = rule.limit(parse_aim("auto"))
    went, right = list[bool](), list[bool]()
    for question in test:
        near, far = (side.found[key_of(question)] for side in (labels.near, labels.far))
        row = LabelledRow(near=near, far_right=far.right)
        went.append(limit.passed_by(judged(rule, question.question, row)))
        right.append(far.right if went[-1] else near.right)
    return float(np.mean(went)), float(np.mean(right))


if __name__ == "__main__":
    main()
