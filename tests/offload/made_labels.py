"""Made questions and answers whose truth depends on what the policy can see."""

from __future__ import annotations

import numpy as np

from offload.messages import Confidence
from offload.policy.fitting.answer_table import AnswerRow, key_of, packed
from offload.policy.fitting.labelled_questions import LabelledRow
from offload.policy.fitting.questions import Question
from offload.policy.serving.policy_file import Pairing

PAIRING = Pairing(
    edge_model="tiny.gguf",
    edge_hash="0" * 32,
    quantization="q4_k_m",
    kv_cache_dtype="auto",
    cloud_model="big",
)
HIDDEN = 8


def made(
    number: int, *, seed: int = 0, tells: float = 2.0, in_states: float = 0.0
) -> tuple[list[Question], list[LabelledRow]]:
    """Return questions with rows; right answers have surer tokens by `tells`, and such states."""
    generator = np.random.default_rng(seed)
    questions, rows = [], []
    for place in range(number):
        digits = int(generator.integers(1, 5))
        operands = generator.integers(10 ** (digits - 1), 10**digits, 2)
        question = Question(question=f"What is {operands[0]} + {operands[1]}? ({place})", answer="")
        right = bool(generator.random() < (0.95, 0.8, 0.5, 0.2)[digits - 1])
        doubt = generator.gamma(1.0, 0.1 if right else 0.1 * 10**tells, (digits + 2, 3))
        confidence = tuple(
            Confidence(-float(a), float(b), 5.0 / (1.0 + float(c))) for a, b, c in doubt
        )
        states = generator.normal((2 * right - 1) * in_states, 1.0, (digits + 2, HIDDEN))
        hidden_size, kept = packed(list(states.astype(np.float32)))
        questions.append(question)
        rows.append(
            LabelledRow(
                near=AnswerRow(
                    id=str(place),
                    key=key_of(question),
                    right=right,
                    tokens=confidence,
                    hidden_size=hidden_size,
                    states=kept,
                ),
                far_right=bool(generator.random() < 0.97),
            )
        )
    return questions, rows
