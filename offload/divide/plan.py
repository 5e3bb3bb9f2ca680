"""Plan of a division: the jobs that a small model does over each piece of a document.

Whoever writes it sees the question and what kind of document it is, never its text. It is data
under a schema, and bounded: HazyResearch/minions (arXiv 2502.15964) has code written and run.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from offload.messages import Message, Privacy, Request, Sampling

MAX_JOBS = 3
_MAX_TASK, _MAX_WORDS, _MAX_WORD = 300, 12, 40  # characters, words, characters
_MAX_TOKENS = 400


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Job: what is to be found in each piece, and words that such pieces are likely to have."""

    task: Annotated[str, Meta(min_length=1, max_length=_MAX_TASK)]
    words: Annotated[
        tuple[Annotated[str, Meta(max_length=_MAX_WORD)], ...], Meta(max_length=_MAX_WORDS)
    ] = ()


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Plan: a few jobs; each is done over every piece that is read."""

    jobs: Annotated[tuple[Job, ...], Meta(min_length=1, max_length=MAX_JOBS)]


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "jobs": {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_JOBS,
            "items": {
                "type": "object",
                "properties": {
                    "task": {"type": "string", "minLength": 1, "maxLength": _MAX_TASK},
                    "words": {
                        "type": "array",
                        "maxItems": _MAX_WORDS,
                        "items": {"type": "string", "maxLength": _MAX_WORD},
                    },
                },
                "required": ["task", "words"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["jobs"],
    "additionalProperties": False,
}

_PLAN = (
    "A question is asked about a document that stays on another machine: {about}. You do not see "
    "it. A small model reads it there in pieces, one at a time, and follows one short instruction. "
    "Write the jobs as JSON: each has a task, one simple instruction that can be followed on a "
    "single piece (such as: Find the price of the red lamp), and words that the right piece is "
    "likely to contain. One job is enough where one fact is asked for; one for each fact where "
    "several must be found.\n\nQuestion: {question}"
)


def plan_request(question: str, about: str, privacy: Privacy) -> Request:
    """Return the request for a plan; `about` describes the document without its text."""
    content = _PLAN.format(about=about, question=question)
    return Request(
        messages=(Message(role="user", content=content),),
        sampling=Sampling(max_tokens=_MAX_TOKENS, json_schema=SCHEMA),
        privacy=privacy,
    )


def read_plan(text: str, question: str) -> Plan:
    """Return a plan as it was written, behind the question itself as its first job.

    A small planner may write jobs that miss the question; one that writes no plan adds none.
    """
    asked = plain_plan(question).jobs
    try:
        plan = msgspec.json.decode(text, type=Plan)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return Plan(jobs=asked)
    planned = tuple(job for job in plan.jobs if job.task.strip())
    return Plan(jobs=(*asked, *planned)[:MAX_JOBS])


def plain_plan(question: str) -> Plan:
    """Return the plan that is made without a model: the question is the job."""
    return Plan(jobs=(Job(task=question.strip()[:_MAX_TASK]),))
