"""Trial of the hybrid: the same questions near, far and through it; who is right, and the cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import track
from rich.table import Table

from backbone.files import SHARED, atomic_write, require_outputs
from backbone.terminal_text import echo_json, printable
from edge.chat.terminal import StreamReader
from edge.near.factory import RunFlags, open_hybrid, settings_with
from offload.config.places import places
from offload.egress.permission import ConsentForAll
from offload.engine import Engine
from offload.errors import LinkError, RequestError, SettingsError
from offload.hybrid.hybrid import Hybrid
from offload.messages import Finish, Message, Request, Sampling
from offload.policy.fitting.questions import Question, is_right, read_questions
from offload.policy.serving.answer_checks import final_answer
from offload.reasons import sentence, sureness

MAX_TOKENS = 160


class TrialOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a trial; shares and accuracies are between 0 and 1."""

    questions: int
    edge_accuracy: float
    cloud_accuracy: float
    hybrid_accuracy: float
    escalated_share: float
    bytes_sent: int
    seconds: float  # of the hybrid pass
    samples: dict[str, list[float]]  # of each question, 1 where right, for `nearfar bench compare`

    @property
    def recovered(self) -> float:
        """Return how much of the way from the edge's accuracy to the cloud's the hybrid went."""
        gap = self.cloud_accuracy - self.edge_accuracy
        return (self.hybrid_accuracy - self.edge_accuracy) / gap if gap > 0 else 1.0


class TrialAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of one engine in a trial."""

    right: bool
    text: str
    finish: Finish


def run_trial(
    path: str, *, split: str, model: str | None, report: str | None, as_json: bool
) -> None:
    """Run the trial and print its table. Raises SettingsError without a cloud."""
    require_outputs(Path(report) if report else None)
    questions = read_questions(Path(path), split=split)
    if not questions:
        raise RequestError(f"{path} has no questions of split {split!r}; name another split")
    outcome = asyncio.run(_trial(questions, model, Console(stderr=as_json)))
    document = msgspec.json.encode(outcome)
    if report:
        atomic_write(Path(report), document + b"\n", mode=SHARED)
    if as_json:
        echo_json(document.decode())


async def _trial(
    questions: Sequence[Question], model: str | None, console: Console
) -> TrialOutcome:
    here, settings = places(), settings_with(model)
    hybrid = open_hybrid(settings, here, RunFlags(consent=ConsentForAll("these questions")))
    cloud = hybrid.cloud
    async with aclosing(hybrid):
        if cloud is None:
            raise SettingsError(
                "no far model is set up; start `nearfar cloud serve` and set cloud.url"
            )
        began = time.monotonic()
        mixed = [await _shown(hybrid, each, console) for each in questions]
        seconds = time.monotonic() - began
        near = await _alone(hybrid.edge, questions, "the near model alone", console, at_once=1)
        far = await _alone(cloud, questions, "the far model alone", console, at_once=8)
    outcome = _outcome(mixed, near, far, seconds)
    _table(outcome, console)
    return outcome


async def _give(engine: Engine, question: Question) -> TrialAnswer:
    request = Request(
        messages=(Message(role="user", content=question.question),),
        sampling=Sampling(max_tokens=MAX_TOKENS),
    )
    reader = StreamReader(quiet=True)
    finish = await reader.read(engine.generate(request))
    right = is_right(reader.text, question.answer)
    return TrialAnswer(right=right, text=reader.text, finish=finish)


async def _shown(hybrid: Hybrid, question: Question, console: Console) -> TrialAnswer:
    given = await _give(hybrid, question)
    route = given.finish.route
    assert route is not None, "the hybrid always says who answered"
    if route.failure:
        raise LinkError(f"the far model failed during the trial: {route.failure}")
    side = "[green]near[/]" if route.served_by == "edge" else "[cyan]far [/]"
    mark = "[green]right[/]" if given.right else "[red]wrong[/]"
    sure = sureness(route.confidence) if route.confidence is not None else ""
    said = f"{_plain(question.question)} -> {_plain(final_answer(given.text))}"
    console.print(
        f"{side} {mark} {sure:>11}  {said} [dim]({sentence(route.reason, route.confidence)})[/]",
        soft_wrap=True,
        highlight=False,
    )
    return given


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(printable(text))


async def _alone(
    engine: Engine, questions: Sequence[Question], what: str, console: Console, *, at_once: int
) -> list[TrialAnswer]:
    given: list[TrialAnswer] = []
    starts = range(0, len(questions), at_once)
    for start in track(starts, description=what, console=console, transient=True):
        batch = questions[start : start + at_once]
        given += await asyncio.gather(*(_give(engine, each) for each in batch))
    return given


def _outcome(
    mixed: Sequence[TrialAnswer],
    near: Sequence[TrialAnswer],
    far: Sequence[TrialAnswer],
    seconds: float,
) -> TrialOutcome:
    def share(flags: Sequence[bool]) -> float:
        return round(sum(flags) / len(flags), 4)

    return TrialOutcome(
        questions=len(mixed),
        edge_accuracy=share([given.right for given in near]),
        cloud_accuracy=share([given.right for given in far]),
        hybrid_accuracy=share([given.right for given in mixed]),
        escalated_share=share([_served_by(given) == "cloud" for given in mixed]),
        bytes_sent=sum(given.finish.usage.bytes_sent for given in mixed),
        seconds=round(seconds, 2),
        samples={
            "near_right": [float(given.right) for given in near],
            "far_right": [float(given.right) for given in far],
            "hybrid_right": [float(given.right) for given in mixed],
            "asked_far": [float(_served_by(given) == "cloud") for given in mixed],
        },
    )


def _served_by(given: TrialAnswer) -> str:
    assert given.finish.route is not None, "the hybrid always says who answered"
    return given.finish.route.served_by


def _table(outcome: TrialOutcome, console: Console) -> None:
    table = Table("", "right", "asked far", title=f"{outcome.questions} questions")
    table.add_row("near only", f"{outcome.edge_accuracy:.1%}", "0%")
    table.add_row("far only", f"{outcome.cloud_accuracy:.1%}", "100%")
    table.add_row(
        "[b]hybrid[/]", f"{outcome.hybrid_accuracy:.1%}", f"{outcome.escalated_share:.1%}"
    )
    console.print(table)
    console.print(
        f"The hybrid went {outcome.recovered:.0%} of the way from near to far, sent "
        f"{outcome.bytes_sent:,} bytes and took {outcome.seconds:.1f} s.",
        highlight=False,
    )
