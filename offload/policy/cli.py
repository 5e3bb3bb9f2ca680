"""The policy's commands: evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from offload.policy.evaluate import Evaluation

policy_app = typer.Typer(help="Who answers, and how well that was decided.", no_args_is_help=True)


@policy_app.callback()
def _policy() -> None:
    """Keep `evaluate` a command of its own while it is the only one."""


@policy_app.command()
def evaluate(
    outcomes: Annotated[
        Path, typer.Option(help="Outcomes to score: JSON lines with prompt, weak_correct, ...")
    ],
    fit: Annotated[Path, typer.Option(help="Outcomes to learn from, in the same form.")],
    labels: Annotated[int, typer.Option(help="How many labelled rows to learn from.")] = 1500,
    seed: Annotated[int, typer.Option(help="Which rows are drawn.")] = 0,
    features: Annotated[
        str, typer.Option(help="Judge by the prompt, or by prompt+answer.")
    ] = "prompt",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document and nothing else.")
    ] = False,
) -> None:
    """Measure how well the prior would have decided on a table of outcomes."""
    import msgspec

    from offload.policy.evaluate import evaluate as run

    found = run(outcomes, fit, labels=labels, seed=seed, features=features)
    typer.echo(msgspec.json.encode(found).decode() if as_json else _told(found))


def _told(found: Evaluation) -> str:
    """Say in lines what was found, with what it can be compared to."""
    low, high = found.intervals["apgr"]
    lines = [
        f"{found.num_questions} questions scored, {found.num_labels} labels learned from",
        f"APGR     {found.apgr:.3f}  ({low:.3f} to {high:.3f} in 95 of 100 resamples)",
        *(f"CPT{level}    {getattr(found, f'cpt{level}'):6.1%}" for level in (50, 80, 95)),
        *(f"{name:16} APGR {each['apgr']:.3f}" for name, each in found.ceilings.items()),
        found.split,
        *found.notes,
    ]
    return "\n".join(lines)
