"""Engines for the hybrid, sure or not of each piece, and a rule that says what it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from offload.aims import Aim
from offload.collect import collect
from offload.hybrid.hybrid import Hybrid
from offload.messages import Confidence, Delta, Finish, Message, Request
from offload.policy.serving.rule import Estimate, Limit, PromptEstimate
from offload.policy.serving.signals import Signals
from offload.reasons import Decision
from tests.offload.scripted import ScriptedEngine

SURE, UNSURE = -0.01, -3.0  # log-probabilities


def said(text: str, logprob: float, index: int = 0) -> Delta:
    return Delta(text=text, index=index, confidence=(Confidence(logprob, 0.5, 0.5),))


def near(*pieces: tuple[str, float] | float, **more: Any) -> ScriptedEngine:
    """Return an engine that says these pieces, each as sure as its log-probability.

    A piece without a text is "near0 ", "near1 " and so on.
    """
    deltas = [
        said(*piece, index) if isinstance(piece, tuple) else said(f"near{index} ", piece, index)
        for index, piece in enumerate(pieces)
    ]
    return ScriptedEngine(deltas, pause_s=0.0, **more)


def far(**more: Any) -> ScriptedEngine:
    return near(("far0 ", SURE), ("far1 ", SURE), **more)


def ask(**options: Any) -> Request:
    return Request(messages=(Message(role="user", content="question"),), **options)


async def read(hybrid: Hybrid, request: Request) -> tuple[str, Finish]:
    """Return the text that a reader is left with, and the Finish."""
    answer = await collect(hybrid.generate(request))
    assert answer.finish.route is not None
    return answer.text, answer.finish


@dataclass
class Kept:
    decisions: list[Decision]

    def record(self, request: Request, decision: Decision) -> None:
        assert request.id == decision.request_id
        self.decisions.append(decision)

    def close(self) -> None:
        return None


@dataclass(frozen=True)
class Told:
    """A rule that says what a test tells it."""

    near: float = 0.9
    far: float = 0.95
    right: float = 0.9
    far_at_once_gain: float | None = None
    watches_states: bool = False
    cloud_model: str | None = None
    known: tuple[float, ...] = ()

    def expect(self, prompt: str) -> PromptEstimate:
        return PromptEstimate(near=self.near, far=self.far)

    def judge(
        self,
        signals: Signals,
        expected: PromptEstimate,
        *,
        flags: Sequence[str] = (),
        states: Sequence[Any] = (),
    ) -> Estimate:
        return Estimate(score=self.right, right=self.right, far=expected.far)

    def gives_up(self, signals: Signals, expected: PromptEstimate, limit: Limit) -> bool:
        return False

    def seen_needs(self) -> list[float]:
        return list(self.known)

    def limit(self, aim: Aim, *, min_gain: float | None = None, cost: float = 0.0) -> Limit:
        return Limit(max_need=0.1 + cost)
