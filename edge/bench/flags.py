"""Flags of `nearfar policy answers`, `calibrate` and `learn`, each declared once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from backbone.declared_options import require_bounds
from backbone.errors import WrongUsage, as_typed
from edge.near.flags import Far, MaxTokens, Model, OldFar

if TYPE_CHECKING:
    from offload.messages import Sampling
    from offload.policy.fitting.calibrator import CalibrationOptions

# Nothing heavier than this at the top: `nearfar --help` must answer at once.

Questions = Annotated[
    Path, typer.Option(help="Questions with answers: JSON lines with question and answer.")
]
Split = Annotated[str | None, typer.Option(help="Only questions of this split.")]
Grader = Annotated[
    str, typer.Option(help="kind, exact, numeric, or module:function of (text, question).")
]
Half = Annotated[int, typer.Option(help="Which half is fitted on.")]


@dataclass(frozen=True, kw_only=True)
class AnswersFlags:
    """Flags of `policy answers`. Raises WrongUsage."""

    questions: Questions
    out: Annotated[Path, typer.Option(help="The table of JSON lines; missing rows are asked.")]
    split: Split = None
    model: Model = None
    far: Far = False
    cloud: OldFar = False
    grader: Grader = "kind"
    max_tokens: MaxTokens = 256
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", help="0 always takes the likeliest token.")
    ] = 0.0
    top_p: Annotated[float, typer.Option(help="Likeliest tokens of so much probability.")] = 1.0
    seed: Annotated[int | None, typer.Option(help="For answers drawn at a temperature.")] = None
    at_once: Annotated[
        int, msgspec.Meta(ge=1), typer.Option(help="How many questions are in flight.")
    ] = 4
    alternatives: Annotated[
        int, typer.Option(help="Likeliest tokens kept at each place, 0 to 20.")
    ] = 5
    text: Annotated[
        bool, typer.Option("--text", help="Keep the questions' and the answers' text too.")
    ] = False
    states: Annotated[
        bool, typer.Option("--states", help="Keep the hidden states of the last tokens too.")
    ] = False

    def __post_init__(self) -> None:
        require_bounds(self, WrongUsage)
        with as_typed():
            self.sampling()

    def sampling(self) -> Sampling:
        """Return how the answers are drawn."""
        from offload.messages import Sampling

        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            max_tokens=self.max_tokens,
            logprobs=self.alternatives,
        )


@dataclass(frozen=True, kw_only=True)
class CalibrateFlags:
    """Flags of `policy calibrate`. Raises WrongUsage."""

    questions: Questions
    split: Split = None
    model: Model = None
    grader: Grader = "kind"
    max_tokens: MaxTokens = 256
    alpha: Annotated[float, typer.Option(help="Share wrong that is allowed near.")] = 0.05
    delta: Annotated[float, typer.Option(help="How often that promise may fail.")] = 0.05
    probe: Annotated[bool, typer.Option(help="Try a probe of the near model's hidden states.")] = (
        True
    )
    seed: Half = 0

    def __post_init__(self) -> None:
        with as_typed():
            self.options()

    def options(self) -> CalibrationOptions:
        """Return how the policy is fitted."""
        from offload.policy.fitting.calibrator import CalibrationOptions

        return CalibrationOptions(
            alpha=self.alpha, delta=self.delta, use_probe=self.probe, seed=self.seed
        )


@dataclass(frozen=True, kw_only=True)
class LearnFlags:
    """Flags of `policy learn`. Raises WrongUsage."""

    prompts: Annotated[
        Path,
        typer.Option(help="Prompts of your own: one a line, or JSON lines with question."),
    ]
    budget: Annotated[int | None, typer.Option(help="Ask at most so many of them.")] = None
    model: Model = None
    max_tokens: MaxTokens = 256
    seed: Half = 0

    def __post_init__(self) -> None:
        if self.budget is not None and self.budget < 1:
            raise WrongUsage(f"--budget is {self.budget}; it must be 1 or more")
