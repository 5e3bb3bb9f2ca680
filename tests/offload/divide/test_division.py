"""A long document's text stays near: what is planned, found, checked, and what may leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from offload.collect import collect
from offload.divide.division import MAX_LEAVING, Division, DivisionOptions, told
from offload.divide.findings import Quotation, apart, read_finding, stands_in, within
from offload.divide.plan import MAX_JOBS, Job, read_plan
from offload.documents.document import Document, Page, Passage
from offload.egress.door import Door, EgressEngine
from offload.errors import CloudFailed
from offload.hybrid.hybrid import Hybrid, HybridOptions
from offload.messages import Message, Privacy, Request
from tests.offload.hybrid.pairs import Told
from tests.offload.scripted import ScriptedEngine

FACT = "The lamp in room seven costs 41 marks."
FILLER = "Nothing of note was said about the weather on this long day. " * 15
QUESTION = "What does the lamp in room seven cost?"
PLAN = {"jobs": [{"task": "Find the price of the lamp", "words": ["lamp", "price", "costs"]}]}


def text_of(*facts: str, pieces: int = 40) -> Document:
    """Return a document of so many pieces, with the facts spread over it."""
    parts = [f"Part {number}. {FILLER}" for number in range(pieces)]
    for at, fact in enumerate(facts):
        parts.insert(3 + 7 * at, fact)
    return Document(
        name="secret-plans.txt", kind="text", pages=(Page(number=0, text="\n\n".join(parts)),)
    )


def piece_of(request: Request) -> str:
    return request.messages[-1].content.partition("Piece of the document:\n")[2]


def reading(request: Request) -> Sequence[str]:
    """A near model that finds the fact, and quotes elsewhere what does not stand there."""
    piece = piece_of(request)
    if not piece:
        return ["near plan or answer"]
    found = FACT if FACT in piece else "The lamp costs 99 marks."
    return [json.dumps({"quote": found, "answer": "41 marks"})]


def thinking(request: Request) -> Sequence[str]:
    return [json.dumps(PLAN)] if request.sampling.json_schema else ["It costs 41 marks [1]."]


def pair(far: Any = None, near: Any = None) -> tuple[Hybrid, ScriptedEngine, ScriptedEngine]:
    edge = ScriptedEngine(script=near or reading, pause_s=0.0)
    cloud = far or ScriptedEngine(script=thinking, pause_s=0.0)
    return Hybrid(edge, cloud, options=HybridOptions(rule=Told())), edge, cloud


async def asked(
    hybrid: Hybrid, document: Document, *, privacy: Privacy = Privacy.CLOUD_OK, **options: Any
) -> tuple[str, Any, Any]:
    far = hybrid.forced("cloud", because="divide")
    division = Division(hybrid.edge, far, options=DivisionOptions(**options))
    request = Request(messages=(Message(role="user", content=QUESTION),), privacy=privacy)
    found = await division.find(QUESTION, [document], privacy)
    answer = await collect(division.answer(QUESTION, found, request))
    return answer.text, found, answer.finish


def left(cloud: ScriptedEngine) -> str:
    return "\n".join(each.content for request in cloud.requests for each in request.messages)


async def test_the_far_model_plans_and_answers_and_sees_findings_alone() -> None:
    hybrid, _, cloud = pair()
    text, found, finish = await asked(hybrid, text_of(FACT))
    assert text == "It costs 41 marks [1]." and len(cloud.requests) == 2
    (finding,) = found.findings
    assert finding.quote == FACT and FACT in left(cloud)
    assert FILLER[:40] not in left(cloud) and "secret-plans" not in left(cloud)
    assert "a text document of" in cloud.requests[0].messages[-1].content
    assert finish.route.reason == "divide" and finish.route.served_by == "cloud"


async def test_what_a_model_quotes_and_does_not_stand_in_the_piece_is_dropped() -> None:
    hybrid, _, cloud = pair()
    _, found, _ = await asked(hybrid, text_of())
    assert found.findings == () and "99 marks" not in left(cloud)
    assert "(nothing was found)" in left(cloud)


async def test_all_pieces_are_requests_of_their_own_that_may_not_leave() -> None:
    hybrid, edge, _ = pair()
    _, found, _ = await asked(hybrid, text_of(FACT), num_lanes=4)
    jobs = [each for each in edge.requests if piece_of(each)]
    assert len(jobs) >= found.num_read > 10
    assert {each.privacy for each in jobs} == {Privacy.LOCAL_ONLY}
    assert not any(each.tools for each in jobs) and all(each.sampling.json_schema for each in jobs)
    assert len({each.messages[0] for each in jobs}) == 1, "one prefix for all"


async def test_no_more_leaves_than_is_said_whatever_is_found() -> None:
    def greedy(request: Request) -> Sequence[str]:
        piece = piece_of(request)
        return [json.dumps({"quote": piece[:240], "answer": "all of it"})] if piece else ["?"]

    hybrid, *_ = pair(near=greedy)
    document = text_of(FACT, pieces=60)
    _, found, _ = await asked(hybrid, document)
    assert 0 < len(told(found.findings)) <= MAX_LEAVING
    short = text_of(FACT, pieces=6)
    _, found, _ = await asked(pair(near=greedy)[0], short)
    assert found.findings and len(told(found.findings)) <= 0.05 * len(short.text)


@pytest.mark.parametrize("order", ["local_only", "offline"])
async def test_where_nothing_may_leave_the_near_model_does_both_parts(order: str) -> None:
    edge, cloud = ScriptedEngine(script=reading, pause_s=0.0), ScriptedEngine(script=thinking)
    options = HybridOptions(rule=Told(), offline=order == "offline")
    hybrid = Hybrid(edge, cloud, options=options)
    privacy = Privacy.LOCAL_ONLY if order == "local_only" else Privacy.CLOUD_OK
    text, found, finish = await asked(hybrid, text_of(FACT), privacy=privacy)
    assert text == "near plan or answer" and not cloud.requests
    assert len(found.findings) == 1 and finish.route.served_by == "edge"


async def test_where_the_link_dies_the_near_model_answers_from_what_was_found() -> None:
    gone = CloudFailed("the link is gone; ask again")
    hybrid, *_ = pair(far=ScriptedEngine(script=thinking, error=gone, pause_s=0.0))
    text, found, finish = await asked(hybrid, text_of(FACT))
    assert text == "near plan or answer" and len(found.findings) == 1
    assert finish.route.failure is not None


async def test_findings_are_redacted_as_all_else_is() -> None:
    fact = "Write to the lamp maker at anna.smith@example.com about the price."

    def mail(request: Request) -> Sequence[str]:
        found = fact if fact in piece_of(request) else ""
        return [json.dumps({"quote": found, "answer": ""})]

    edge = ScriptedEngine(script=mail, pause_s=0.0)
    cloud = ScriptedEngine(script=thinking, pause_s=0.0)
    hybrid = Hybrid(edge, EgressEngine(cloud, door=Door()), options=HybridOptions(rule=Told()))
    await asked(hybrid, text_of(fact))
    assert "anna.smith" not in left(cloud) and "EMAIL_1" in left(cloud)


@pytest.mark.parametrize(
    "written",
    [
        "no JSON",
        '{"jobs": []}',
        json.dumps({"jobs": [{"task": "x", "words": []}] * 10_000}),
        '{"jobs": [{"task": "never ends ' + "x" * 100_000,
        json.dumps({"jobs": [{"task": "   "}]}),
        json.dumps({"jobs": [{"task": "Send the whole text" * 100, "words": []}]}),
    ],
)
def test_a_plan_that_is_none_is_the_question_itself(written: str) -> None:
    assert [job.task for job in read_plan(written, QUESTION).jobs] == [QUESTION]


def test_a_plan_has_few_jobs() -> None:
    plan = read_plan(json.dumps({"jobs": PLAN["jobs"] * MAX_JOBS}), QUESTION)
    assert len(plan.jobs) == MAX_JOBS and plan.jobs[0].task == QUESTION


PIECE = Passage(name="a", page=2, first_line=1, last_line=4, text="The  Lamp\ncosts 41 marks. So.")


@pytest.mark.parametrize(
    ("quote", "stands"),
    [("the lamp costs 41 marks", True), ("the lamp costs 42 marks", False), ("", True)],
)
def test_a_quotation_stands_whatever_its_blanks_and_capitals(quote: str, stands: bool) -> None:
    assert stands_in(quote, PIECE.text) == stands


@pytest.mark.parametrize(
    "written",
    ["", "{", '{"quote": 3}', '{"quote": "", "answer": "41"}', '{"quote": "So", "answer": ""}'],
)
def test_a_form_that_quotes_nothing_finds_nothing(written: str) -> None:
    assert read_finding(written, Job(task="x"), PIECE) is None


def finding(quote: str) -> Quotation:
    return Quotation(task="x", answer="", quote=quote, passage=PIECE)


def test_a_quotation_within_another_is_said_once_and_the_first_that_fit_leave() -> None:
    found = [
        finding("the lamp costs 41"),
        finding("lamp costs"),
        finding("y" * 90),
        finding("zz z"),
    ]
    kept = list(apart(found))
    assert [each.quote for each in kept] == [found[0].quote, found[2].quote, found[3].quote]
    assert [each.quote for each in within(kept, 60)] == [found[0].quote, found[3].quote]


async def test_reading_ends_when_its_reader_leaves() -> None:
    edge = ScriptedEngine(script=reading, pause_s=0.001)
    hybrid = Hybrid(edge, None, options=HybridOptions(rule=Told()))
    division = Division(edge, hybrid, options=DivisionOptions(num_lanes=2))
    task = asyncio.ensure_future(division.find(QUESTION, [text_of(FACT)], Privacy.LOCAL_ONLY))
    await edge.until(lambda: len(edge.requests) > 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await edge.until(lambda: not edge.running)
    assert len(edge.requests) < 40
