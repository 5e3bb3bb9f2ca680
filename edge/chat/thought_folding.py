"""A model's thoughts folded away, so that a person reads the answer and can still unfold them."""

from __future__ import annotations

import msgspec

from offload.messages import Delta
from offload.thinking import ThoughtReader


class Folding:
    """Takes the thoughts out of one answer's pieces, and keeps them."""

    def __init__(self) -> None:
        self._reader = ThoughtReader()
        self._thoughts: list[str] = []

    @property
    def thoughts(self) -> str:
        """Return what has been thought so far."""
        return "".join(self._thoughts)

    @property
    def has_thought(self) -> bool:
        """Whether there are any thoughts."""
        return bool(self._thoughts)

    def take(self, delta: Delta) -> Delta:
        """Return the piece without its thoughts."""
        if delta.replaces:
            self._reader, self._thoughts = ThoughtReader(), []
        thought, answer = self._reader.push(delta.text)
        self._keep(thought)
        return delta if answer == delta.text else msgspec.structs.replace(delta, text=answer)

    def rest(self) -> str:
        """The answer has ended: return the rest of it."""
        thought, answer = self._reader.flush()
        self._keep(thought)
        return answer

    def told(self) -> str:
        """Return one line about the thoughts."""
        count = len(self.thoughts.split())
        return f"thought for {count} word{'s' if count != 1 else ''} first"

    def _keep(self, thought: str) -> None:
        if thought:
            self._thoughts.append(thought)
