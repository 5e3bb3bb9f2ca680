"""Labelled questions: each answered by both models, the rows that a policy is fitted to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from offload.engine import Engine
from offload.errors import RequestError
from offload.policy.fitting.answer_table import AnswerRow, AnswerTable, key_of
from offload.policy.fitting.ask_questions import QuestionOptions, ask_all, together
from offload.policy.fitting.questions import Question

_FAR_AT_ONCE = 8  # the cloud answers them concurrently


@dataclass(frozen=True, kw_only=True)
class LabelledRow:
    """Row for fitting: the near answer to one question, and whether the far one was right."""

    near: AnswerRow
    far_right: bool

    @property
    def near_right(self) -> bool:
        return self.near.right


@dataclass(frozen=True)
class LabelTables:
    """Answer tables of both models for the same questions."""

    near: AnswerTable
    far: AnswerTable

    @classmethod
    def at(cls, path: Path) -> LabelTables:
        """Open `path` with .near.jsonl and .far.jsonl behind its name."""
        near, far = (path.with_name(f"{path.name}.{side}.jsonl") for side in ("near", "far"))
        return cls(AnswerTable(near), AnswerTable(far))

    def both(self, key: str) -> bool:
        """Whether both models have answered the question of this key."""
        return key in self.near.found and key in self.far.found

    def of(self, questions: Sequence[Question]) -> tuple[list[Question], list[LabelledRow]]:
        """Return the questions that both answered, and their rows, in order.

        Raises RequestError where not one was.
        """
        found, rows = list[Question](), list[LabelledRow]()
        for question in questions:
            if self.both(key := key_of(question)):
                found.append(question)
                far_right = self.far.found[key].right
                rows.append(LabelledRow(near=self.near.found[key], far_right=far_right))
        if not rows:
            raise RequestError("no question has been asked of both models yet; run it again")
        return found, rows


async def label_questions(
    questions: Sequence[Question],
    edge: Engine,
    cloud: Engine,
    labels: LabelTables,
    how: QuestionOptions,
    *,
    on_progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Ask both models what has not been asked yet; return how many questions were left out.

    `on_progress` is called with how many both have answered. Raises LinkError where the cloud is
    gone: what was answered before is kept.
    """
    done = [0, 0]

    def progress_of(side: int) -> Callable[[int], None]:
        def note(count: int) -> None:
            done[side] = count
            on_progress(min(done))

        return note

    far_how = replace(how, at_once=_FAR_AT_ONCE, keep_states=False)
    await together(
        ask_all(questions, edge, labels.near, replace(how, at_once=1), on_progress=progress_of(0)),
        ask_all(questions, cloud, labels.far, far_how, on_progress=progress_of(1)),
    )
    return sum(not labels.both(key_of(each)) for each in questions)
