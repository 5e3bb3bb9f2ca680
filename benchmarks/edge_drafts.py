"""The row of the edge's benchmark that is about drafts: with them and without, by turns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import edge_sides as sides
from benchmarks.edge_model import find
from edge.llama.runtime import LlamaEngine
from offload.messages import Message, Request, Sampling

Row = dict[str, Any]
# Texts of this project as they once were, kept, so that a row means the same next year.
TEXTS = Path(__file__).with_name("edge_drafts_texts")
FILE, PROSE = ((TEXTS / name).read_text(encoding="utf-8") for name in ("file.txt", "prose.txt"))
BROKEN = FILE.replace("self._free.append(seat)", "self._free.append(seats)")
TASKS = {
    "a file written again with one name changed": (
        "Rewrite this file with the name Seat changed to Chair everywhere. Answer with the whole "
        f"file only.\n\n```python\n{FILE}\n```"
    ),
    "code repair": (
        "One name in this file is wrong. Answer with the whole corrected file only.\n\n"
        f"```python\n{BROKEN}\n```"
    ),
    "a summary": (
        f"{PROSE}\n\nSummarize the text above paragraph by paragraph, quoting the key sentence of "
        "each word by word."
    ),
    "a story": "Write a story of five hundred words about a lighthouse.",
}


def drafts(folder: Path, quick: bool) -> Row:
    """Answers with drafts and without: from the text itself, and by a smaller model."""
    small, large = find(folder, "0.5b"), find(folder, "1.5b")
    table = {}
    for path, num_tokens in ((small, 240), (large, 120)):
        table |= _compared(path, list(TASKS), 24 if quick else num_tokens, quick, 0)
    few = 16 if quick else 60
    for num_busy in (0, 1):
        table |= _compared(large, ["a story"], few, quick, num_busy, draft_model=small)
    worst = min(table.values(), key=lambda row: row["ratio"])
    return {**worst, "unit": "tokens/s of an answer", "tasks": table}


def _compared(
    path: Path,
    names: list[str],
    num_tokens: int,
    quick: bool,
    num_busy: int,
    draft_model: Path | None = None,
) -> dict[str, Row]:
    """Return the rows of some tasks; text once read stays, so that only writing is timed."""
    plain = LlamaEngine(path, options=sides.options(max_model_len=4096, window=0))
    drafting = {"max_draft_tokens": 15} if draft_model is None else {"draft_model": draft_model}
    ours = LlamaEngine(path, options=sides.options(max_model_len=4096, window=0, **drafting))
    table = {}
    with sides.busy_cores(num_busy):
        for name in names:
            request = Request(
                messages=(Message(role="user", content=TASKS[name]),),
                # An answer of a few words, or a refusal, would be timed as a step or two.
                sampling=Sampling(max_tokens=num_tokens, ignore_eos=True),
            )
            sides.our_answer(plain, request)  # both have read it, and step times are known
            sides.our_answer(ours, request)
            with_drafts, without = sides.by_turns(
                1 if quick else 3,
                lambda asked=request: sides.our_answer(ours, asked)[1],  # type: ignore[misc]
                lambda asked=request: sides.our_answer(plain, asked)[1],  # type: ignore[misc]
            )
            by = f", drafted by {draft_model.stem}" if draft_model else ""
            label = f"{path.stem}{by}, {name}" + (", one core busy" if num_busy else "")
            table[label] = {
                "ratio": with_drafts / without,
                "ours": with_drafts,
                "theirs": without,
                "accepted": ours.draft_stats.accepted,
                "proposed": ours.draft_stats.proposed,
            }
    plain.close()
    ours.close()
    return table
