"""Preview of a departure: the text as it would leave, what is replaced, what stays, and to whom.

It is what a person is shown who is asked whether a text may leave. The door makes the text anew.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping

import msgspec

from offload.egress.privacy.findings import Rules, counted
from offload.egress.privacy.redaction import clear
from offload.egress.privacy.shareable_part import part_that_leaves
from offload.messages import Request, Role
from offload.pictures import bare
from offload.policy.serving.dispatch import num_chars


class Piece(msgspec.Struct, frozen=True, omit_defaults=True):
    """Piece of a text; `original` is what a placeholder stands for, and stays on the device."""

    text: str
    original: str = ""


class LeavingTurn(msgspec.Struct, frozen=True, kw_only=True):
    """A turn as it would leave."""

    role: Role
    pieces: tuple[Piece, ...]
    num_pictures: int = 0

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """Preview of one request: its turns, the newest last; what is asked is the last.

    `found` counts what was detected and what is done with it ("email redact": 2), `left_out` the
    turns that stay. With `blocked` kinds in it, the text would not leave at all.
    """

    endpoint: str
    model: str
    num_bytes: int
    turns: tuple[LeavingTurn, ...]
    found: dict[str, int]
    left_out: int

    @property
    def blocked(self) -> bool:
        """Whether a rule keeps the text here whatever its person says."""
        return any(name.endswith(" block") for name in self.found)

    @property
    def replaced(self) -> dict[str, str]:
        """The placeholders in the order in which they stand, with what each stands for."""
        pieces = (piece for turn in self.turns for piece in turn.pieces)
        return {piece.text: piece.original for piece in pieces if piece.original}


AT_ONCE = 4000  # characters: a few milliseconds
Previewer = Callable[[Request], Preview]


def preview(request: Request, rules: Rules, *, endpoint: str = "", model: str = "") -> Preview:
    """Return what would leave. Raises EgressBlocked where a tool call hides what it holds."""
    part, left_out = part_that_leaves(request)
    leaves = bare(part)
    cleared = clear(leaves, rules)
    turns = tuple(_turns(cleared.request, cleared.originals))
    return Preview(
        endpoint=endpoint,
        model=model,
        num_bytes=sum(len(turn.text.encode()) for turn in turns) + _picture_bytes(leaves),
        turns=turns,
        found=counted(cleared.kinds, rules),
        left_out=left_out,
    )


async def previewed(make: Previewer, request: Request) -> Preview:
    """Return a preview; a long text is read in a thread, since the event loop may not wait."""
    if num_chars(request) <= AT_ONCE:
        return make(request)
    return await asyncio.to_thread(make, request)


def _turns(request: Request, originals: Mapping[str, str]) -> Iterator[LeavingTurn]:
    if request.prompt is not None:
        yield LeavingTurn(role="user", pieces=_pieces(request.prompt, originals))
    for message in request.messages:
        # Thoughts leave with an answer, too; some templates read them.
        said = "\n\n".join(text for text in (message.reasoning, message.content) if text)
        yield LeavingTurn(
            role=message.role,
            pieces=_pieces(said, originals),
            num_pictures=len(message.pictures),
        )
    if request.answer_prefix:
        yield LeavingTurn(role="assistant", pieces=_pieces(request.answer_prefix, originals))


def _picture_bytes(request: Request) -> int:
    return sum(len(each.data) for message in request.messages for each in message.pictures)


def _pieces(text: str, originals: Mapping[str, str]) -> tuple[Piece, ...]:
    if not originals:
        return (Piece(text),)
    placeholders = re.compile(f"({'|'.join(map(re.escape, originals))})")
    return tuple(Piece(part, originals.get(part, "")) for part in placeholders.split(text) if part)
