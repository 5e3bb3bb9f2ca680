"""A question about long documents, divided: `nearfar ask --divide --file FILE QUESTION`."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from backbone.errors import WrongUsage
from backbone.files import expanded
from backbone.terminal_text import echo, echo_json, overwrite, readable
from edge.chat.ask_options import AskOptions
from edge.chat.terminal import StreamReader, document, why
from edge.near.edge_factory import NUM_SERVED
from edge.near.factory import open_hybrid
from offload.config.places import places
from offload.divide.division import DividedAnswer, Division, DivisionOptions
from offload.divide.findings import Quotation
from offload.documents.reader import read_document
from offload.engine import Engine
from offload.messages import Finish, Message, Request

_CITED = re.compile(r"\[(\d{1,3})\]")


def ask_divided(text: str, wish: AskOptions, *, explain: bool, as_json: bool) -> int:
    """Ask about documents that the near model reads in pieces; return the exit status."""
    if not wish.files:
        raise WrongUsage("--divide is about documents; name one with --file")
    return asyncio.run(_ask(text, wish, explain=explain, as_json=as_json))


async def _ask(text: str, wish: AskOptions, *, explain: bool, as_json: bool) -> int:
    settings = wish.settings()
    names = [expanded(each) for each in wish.files or ()]
    documents = [await asyncio.to_thread(read_document, each) for each in names]
    persona = wish.persona()
    system = (Message(role="system", content=persona),) if persona else ()
    request = Request(
        messages=(*system, Message(role="user", content=text)),
        sampling=wish.sampling(0.0 if as_json else settings.edge.temperature),
        privacy=wish.privacy(),
    )
    # The pieces are read side by side, as answers are served.
    choice = replace(wish.choice(), serving=True, shared=False)
    reader = StreamReader(quiet=as_json)
    async with aclosing(open_hybrid(settings, places(), choice)) as hybrid:
        far: Engine = hybrid if wish.offline else hybrid.forced("cloud", because="divide")
        lanes = settings.edge.max_num_seqs or NUM_SERVED
        division = Division(hybrid.edge, far, options=DivisionOptions(num_lanes=lanes), told=_told)
        found = await division.find(text, documents, request.privacy)
        finish = await reader.read(division.answer(text, found, request))
    return _report(reader, found, finish, explain=explain, as_json=as_json)


def _told(num_done: int, num_pieces: int) -> None:
    """Say how much has been read, on a line that is written over."""
    if sys.stderr.isatty():
        done = num_done == num_pieces
        overwrite("" if done else f"reading near: {num_done} of {num_pieces} pieces", sys.stderr)


def _report(
    reader: StreamReader, found: DividedAnswer, finish: Finish, *, explain: bool, as_json: bool
) -> int:
    if as_json:
        whole = document(reader.text, finish, reader.thoughts) | _as_document(found)
        echo_json(json.dumps(whole, ensure_ascii=False))
    else:
        for line in references(reader.text, found.findings):
            echo(line)
    if found.num_read < found.num_pieces:
        echo(
            f"nearfar: {found.num_read} of {found.num_pieces} pieces were read, the likeliest "
            "ones; ask more exactly where the answer is missing",
            err=True,
        )
    if explain:
        echo(why(finish), err=True, faint=True)
    if finish.reason == "error":
        echo(f"nearfar: {finish.error}", err=True)
        return 1
    failure = finish.route.failure if finish.route else None
    if failure:
        echo(f"nearfar: answered near: {failure}", err=True)
    return 0


def references(text: str, findings: Sequence[Quotation]) -> list[str]:
    """Return the quotations that an answer names, each under its number and place; else all."""
    cited = {int(each) for each in _CITED.findall(text)}
    numbered = list(enumerate(findings, 1))
    named = [(number, each) for number, each in numbered if number in cited] or numbered
    lines = [
        f"[{number}] {each.passage.title}: “{readable(' '.join(each.quote.split()))}”"
        for number, each in named
    ]
    return ["", *lines] if lines else []


def _as_document(found: DividedAnswer) -> dict[str, Any]:
    return {
        "findings": [
            {
                "number": number,
                "document": each.passage.name,
                "place": each.passage.place,
                "quote": each.quote,
                "answer": each.answer,
            }
            for number, each in enumerate(found.findings, 1)
        ],
        "pieces_read": found.num_read,
        "pieces": found.num_pieces,
    }
