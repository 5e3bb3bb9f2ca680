"""Command `nearfar policy answers`: one model answers every question of a set, kept as a table."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import msgspec
from rich.console import Console
from rich.progress import Progress

from backbone.terminal_text import echo, echo_json
from edge.bench.flags import AnswersFlags
from edge.near.edge_factory import open_edge
from edge.near.factory import settings_with
from offload.collect import collect
from offload.config.places import Places, places
from offload.config.settings import Settings
from offload.egress.permission import ConsentForAll
from offload.engine import Engine
from offload.errors import RequestError, SettingsError
from offload.hybrid.cloud_factory import open_cloud, open_door, open_ledger
from offload.messages import Message, Request, Sampling
from offload.policy.fitting.answer_table import AnswerTable
from offload.policy.fitting.ask_questions import QuestionOptions, ask_all
from offload.policy.fitting.questions import find_grader, read_questions


def run_answers(flags: AnswersFlags, *, as_json: bool) -> None:
    """Ask what the table lacks, and say how many were answered, how many right, how many left."""
    questions = read_questions(flags.questions, split=flags.split)
    if not questions:
        raise RequestError(f"{flags.questions} has no such questions; name another file or split")
    here, settings = places(), settings_with(flags.model)
    how = QuestionOptions(
        grader=find_grader(flags.grader),
        sampling=flags.sampling(),
        at_once=flags.at_once,
        keep_text=flags.text,
        keep_states=flags.states,
    )
    table = AnswerTable(flags.out)

    async def ask() -> int:
        async with _opened(flags, settings, here) as engine:
            with Progress(console=Console(stderr=True), transient=True) as bar:
                job = bar.add_task("asking", total=len(questions))
                on_progress = lambda done: bar.update(job, completed=done)  # noqa: E731
                return await ask_all(questions, engine, table, how, on_progress=on_progress)

    left_out = asyncio.run(ask())
    said_left_out(left_out)
    right = sum(row.right for row in table.found.values())
    found = {"table": str(flags.out), "answered": len(table.found), "right": right}
    if as_json:
        report = msgspec.json.encode({**found, "left_out": left_out})
        echo_json(report.decode())
        return
    echo(f"{len(table.found)} answers in {flags.out}, {right} of them right")


def said_left_out(count: int) -> None:
    """Say on stderr how many questions got no answer, if any."""
    if count:
        echo(
            f"nearfar: {count} questions got no answer and were left out; run it again to ask them",
            err=True,
        )


@asynccontextmanager
async def _opened(flags: AnswersFlags, settings: Settings, here: Places) -> AsyncIterator[Engine]:
    """Open the near model, or with `far` the far one, whose questions the ledger notes."""
    if not (flags.far or flags.cloud):
        side = replace(settings.edge, max_num_seqs=settings.edge.max_num_seqs or flags.at_once)
        async with aclosing(open_edge(replace(settings, edge=side), here)) as near:
            yield near
        return
    link = open_cloud(settings, here)
    if link is None:
        raise SettingsError("no far model is set up; start `nearfar cloud serve` and set cloud.url")
    ledger = open_ledger(settings, here)
    consent = ConsentForAll("these questions")
    door = open_door(link, settings, here, ledger=ledger, consent=consent)
    async with aclosing(door) as far:
        await reach(far)
        yield far


async def reach(cloud: Engine) -> None:
    """Ask the cloud for one token: a link knows whom it talks to only once it has been used."""
    request = Request(
        messages=(Message(role="user", content="Hello"),), sampling=Sampling(max_tokens=1)
    )
    await collect(cloud.generate(request))
