"""Tables of what both models got right: one JSON line per question."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from backbone.error_causes import cause
from offload.errors import RequestError
from offload.policy.fitting.deferral_curve import Outcomes


class OutcomeRow(msgspec.Struct, frozen=True, kw_only=True):
    """One question, whether the near (weak) and the far (strong) model were right, its answer."""

    prompt: str
    weak_correct: bool
    strong_correct: bool
    task: str = ""
    weak_response: str = ""


def read_outcomes(path: Path) -> list[OutcomeRow]:
    """Read a table of outcomes; empty lines are passed over. Raises RequestError."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise RequestError(
            f"{path} cannot be read ({error.strerror}); name a file of outcomes (JSON lines)"
        ) from None
    rows = [_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise RequestError(f"{path} has no rows; give one JSON line per question")
    return rows


def as_outcomes(rows: list[OutcomeRow]) -> Outcomes:
    """Return the outcomes of some rows as arrays."""
    weak = np.array([row.weak_correct for row in rows], dtype=np.float64)
    return Outcomes(weak, np.array([row.strong_correct for row in rows], dtype=np.float64))


def _row(path: Path, number: int, line: bytes) -> OutcomeRow:
    try:
        return msgspec.json.decode(line, type=OutcomeRow)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RequestError(
            f"{path}, line {number} is no outcome ({cause(error)}); "
            "a row needs prompt, weak_correct and strong_correct"
        ) from None
