"""Replay of the policy's actions on tables: `evaluate --answers NEAR --far FAR --checked, --lent`.

Every question that all tables hold is answered in each way: near, as the rule asks, as it asks once
the far model has read the near answer, and with words lent. Nothing is fitted here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from backbone.errors import cause
from backbone.file_reading import MAX_TABLE_BYTES, read_unzipped
from offload.aims import Aim
from offload.errors import RequestError
from offload.messages import Count, PromptToken
from offload.policy.fitting.answer_table import AnswerRow, read_answers
from offload.policy.fitting.table_replay import judged_row
from offload.policy.serving.check import FarReading, judged
from offload.policy.serving.rule import Rule

Row = TypeVar("Row", bound=msgspec.Struct)


class ReadRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a far model told of one near answer: of each token [logprob, rank, entropy]."""

    id: str
    tokens: Annotated[tuple[tuple[float, ...], ...], Meta(min_length=1)]
    prompt_tokens: Count = 0


class LentRow(msgspec.Struct, frozen=True, kw_only=True):
    """One near answer with words of a far model; `way` names how they were lent."""

    id: str
    right: bool
    way: str = "lend"
    lent: Count = 0
    visits: Count = 0
    far_read: Count = 0


class ActionFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one action over all questions; tokens and visits are means of a question.

    `asked_far` is the share of answers that the far model wrote. `far_read` is None where the
    tables do not tell how long a prompt is.
    """

    accuracy: float
    asked_far: float = 0.0
    far_written: float = 0.0
    far_read: float | None = None
    visits: float = 0.0


class ActionReplay(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a replay: the figures of each action by name."""

    num_questions: int
    actions: dict[str, ActionFigures]
    notes: list[str]


def replay_actions(
    near: Path, far: Path, rule: Rule, *, checked: Path | None = None, lent: Path | None = None
) -> ActionReplay:
    """Answer every question in each way that the tables allow. Raises RequestError."""
    rows, notes = read_answers(near)
    others, more = read_answers(far)
    read = {row.id: row for row in _rows(checked, ReadRow)} if checked else {}
    ways: dict[str, dict[str, LentRow]] = {}
    for one in _rows(lent, LentRow) if lent else ():
        if one.way not in ("near", "far"):
            ways.setdefault(one.way, {})[one.id] = one
    tables = [{row.id for row in others}, *map(set, ways.values()), *([set(read)] if read else [])]
    wanted = set.intersection(*tables)
    shared = [row for row in rows if row.id in wanted]
    if not shared:
        raise RequestError("the tables share no id; give tables of the same questions")
    strong = {row.id: row for row in others}
    found = _asked(shared, strong, rule, read)
    for way, table in ways.items():
        found[f"lend: {way}"] = _lent([table[row.id] for row in shared])
    return ActionReplay(num_questions=len(shared), actions=found, notes=[*notes, *more])


def _asked(
    rows: Sequence[AnswerRow], far: Mapping[str, AnswerRow], rule: Rule, read: Mapping[str, ReadRow]
) -> dict[str, ActionFigures]:
    limit = rule.limit(Aim())
    said = [judged_row(rule, row) for row in rows]
    doubted = [limit.passed_by(each) for each in said]
    found = {
        "near": _figures(rows, far, [False] * len(rows)),
        "ask": _figures(rows, far, doubted),
        "always far": _figures(rows, far, [True] * len(rows)),
    }
    if read and all(each.right is not None for each in said):
        falls = [
            doubts and limit.passed_by(judged(each, _reading(read[row.id])))
            for row, each, doubts in zip(rows, said, doubted, strict=True)
        ]
        readings = [
            read[row.id].prompt_tokens * doubts for row, doubts in zip(rows, doubted, strict=True)
        ]
        found["check, then ask"] = msgspec.structs.replace(
            _figures(rows, far, falls), far_read=float(np.mean(readings))
        )
    return found


def _figures(
    rows: Sequence[AnswerRow], far: Mapping[str, AnswerRow], goes: Sequence[bool]
) -> ActionFigures:
    right = [far[row.id].right if to else row.right for row, to in zip(rows, goes, strict=True)]
    written = [len(far[row.id].tokens) if to else 0 for row, to in zip(rows, goes, strict=True)]
    return ActionFigures(
        accuracy=float(np.mean(right)),
        asked_far=float(np.mean(goes)),
        far_written=float(np.mean(written)),
        far_read=None if any(goes) else 0.0,
    )


def _lent(rows: Sequence[LentRow]) -> ActionFigures:
    def mean(of: Callable[[LentRow], float]) -> float:
        return float(np.mean([of(row) for row in rows]))

    return ActionFigures(
        accuracy=mean(lambda row: row.right),
        far_written=mean(lambda row: row.lent),
        far_read=mean(lambda row: row.far_read),
        visits=mean(lambda row: row.visits),
    )


def _reading(row: ReadRow) -> FarReading:
    return FarReading(tuple(PromptToken(0, "", token[0]) for token in row.tokens), None)


def _rows(path: Path, kind: type[Row]) -> list[Row]:
    """Return the rows of a table, plain or .gz. Raises RequestError."""
    try:
        lines = read_unzipped(path, MAX_TABLE_BYTES).splitlines()
        rows = [msgspec.json.decode(line, type=kind) for line in lines if line.strip()]
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise RequestError(
            f"{path} is no table of this kind ({cause(error)}); see docs/policy.md for its rows"
        ) from None
    if not rows:
        raise RequestError(f"{path} has no rows; give one JSON line per question")
    return rows


def action_lines(found: ActionReplay) -> list[str]:
    """Return what was found, for a person."""
    head = ("right", "written far", "far tokens", "far read", "visits")
    lines = [f"{found.num_questions} questions in all tables"]
    lines.append(f"{'':28}" + "".join(f"{name:>13}" for name in head))
    for name, row in found.actions.items():
        read = "-" if row.far_read is None else f"{row.far_read:.1f}"
        cells = (f"{row.accuracy:.1%}", f"{row.asked_far:.1%}", f"{row.far_written:.1f}", read)
        lines.append(f"{name:28}" + "".join(f"{c:>13}" for c in (*cells, f"{row.visits:.1f}")))
    return [*lines, *found.notes]
