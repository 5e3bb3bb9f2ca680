"""What both models made of each question: one line per question, kept so that a run can go on."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from offload.errors import RequestError, SettingsError
from offload.messages import Confidence, Word
from offload.policy.questions import Question
from offload.policy.signals import Signals


class Labelled(Word, frozen=True, kw_only=True, omit_defaults=True):
    """One question answered twice. It holds no text of either answer.

    `states` are the hidden states of the near answer's last tokens, float16 in base 64.
    """

    key: str
    near_right: bool
    far_right: bool
    confidence: tuple[Confidence, ...] = ()
    flags: tuple[str, ...] = ()
    hidden_size: int = 0
    states: str = ""

    def signals(self, num_tokens: int | None = None) -> Signals:
        """Return the signals of the near answer, or of its first tokens."""
        signals = Signals()
        signals.take(self.confidence[:num_tokens])
        return signals

    def hidden_states(self) -> npt.NDArray[np.float32]:
        """Return the states, [tokens, hidden]."""
        raw = np.frombuffer(base64.b64decode(self.states), dtype=np.float16)
        return raw.reshape(-1, max(1, self.hidden_size)).astype(np.float32)


def key_of(question: Question) -> str:
    """Return a name for a question that changes with its text or its answer."""
    text = "\0".join((question.question, question.answer, *question.others))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def packed(states: Sequence[npt.NDArray[np.float32]]) -> tuple[int, str]:
    """Return the size of a state and all states as text."""
    if not states:
        return 0, ""
    rows = np.clip(np.asarray(states), -65000.0, 65000.0).astype(np.float16)
    return rows.shape[1], base64.b64encode(rows.tobytes()).decode()


class Labels:
    """A file of Labelled lines, read at the start and appended to as answers come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, Labelled] = {}
        for line in path.read_bytes().splitlines() if path.exists() else ():
            try:
                row = msgspec.json.decode(line, type=Labelled)
            except msgspec.MsgspecError:
                continue  # the line that a kill cut short; its question is asked again
            self.found[row.key] = row

    def add(self, rows: Sequence[Labelled]) -> None:
        """Append rows. Raises SettingsError where the disk is full or may not be written."""
        text = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(text)
        except OSError as error:
            raise SettingsError(
                f"{self.path} cannot be written ({error.strerror}); make room and run it again: "
                "what was answered before is kept"
            ) from None
        self.found |= {row.key: row for row in rows}

    def of(self, questions: Sequence[Question]) -> list[Labelled]:
        """Return the rows of these questions in order. Raises RequestError for one not asked."""
        keys = [key_of(each) for each in questions]
        if missing := sum(key not in self.found for key in keys):
            raise RequestError(f"{missing} questions have not been asked yet; run calibrate again")
        return [self.found[key] for key in keys]
