"""Commands `nearfar bench` and those of `nearfar policy` that ask a near model questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backbone.declared_options import from_options
from backbone.errors import WrongUsage
from edge.bench.flags import AnswersFlags, CalibrateFlags, LearnFlags
from edge.near.flags import Draft, Json, Model
from offload.commands.policy import policy_app

# Nothing heavier than this at the top: `nearfar --help` must answer at once.

bench_app = typer.Typer(help="Measure this device and the pair.", no_args_is_help=True)


@bench_app.command("edge")
def bench_edge(
    model: Model = None,
    draft: Draft = None,
    kv: Annotated[
        bool, typer.Option("--kv", help="Compare the types of the KV cache instead.")
    ] = False,
    kinds: Annotated[
        list[str] | None,
        typer.Option("--kind", help="A type of the KV cache, such as q8_0; may be repeated."),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(help="A text to judge them by; by default the model writes one."),
    ] = None,
    prompt_tokens: Annotated[
        int, typer.Option(min=8, help="Tokens of a prompt, or of the text to judge by.")
    ] = 512,
    answer_tokens: Annotated[int, typer.Option(min=8, help="Tokens to write.")] = 64,
    as_json: Json = False,
) -> None:
    """Time the near model on this device, and drafts; or compare types of its KV cache."""
    from edge.bench.bench import bench_kv, bench_speed
    from edge.chat.ask_options import AskOptions

    if kv and draft is not None:
        raise WrongUsage("--kv compares without drafts; leave out --draft")
    if not kv and (kinds or text is not None):
        raise WrongUsage("--kind and --text are for the comparison of caches; add --kv")
    settings = AskOptions(model=model, draft=draft).settings()
    if kv:
        bench_kv(settings, kinds=kinds or (), text=text, num_tokens=prompt_tokens, as_json=as_json)
    else:
        bench_speed(
            settings, prompt_tokens=prompt_tokens, answer_tokens=answer_tokens, as_json=as_json
        )


@bench_app.command("hybrid")
def bench_hybrid(
    questions: Annotated[str, typer.Argument(help="A question bank (JSON lines).")],
    split: Annotated[str, typer.Option(help="Which part of the bank.")] = "test",
    model: Model = None,
    report: Annotated[
        str | None,
        typer.Option("--report", help="Write the table to this file, as JSON."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask every question near, far and through the hybrid, and compare."""
    from edge.bench.hybrid_trial import run_trial

    run_trial(questions, split=split, model=model, report=report, as_json=as_json)


@bench_app.command("compare")
def bench_compare(
    first: Annotated[Path, typer.Argument(help="A report: of edge or hybrid, or of cloud bench.")],
    second: Annotated[Path, typer.Argument(help="A later one of the same benchmark.")],
    as_json: Json = False,
) -> None:
    """Compare two reports of a benchmark, with a 95% interval for each ratio."""
    from edge.bench.compare import run_comparison

    run_comparison(first, second, as_json=as_json)


@policy_app.command("answers")
@from_options(AnswersFlags)
def answers(flags: AnswersFlags, *, as_json: Json = False) -> None:
    """Ask one model every question of a file, and keep what it made of each as a table."""
    from edge.bench.answer_questions import run_answers

    run_answers(flags, as_json=as_json)


@policy_app.command("calibrate")
@from_options(CalibrateFlags)
def calibrate(flags: CalibrateFlags, *, as_json: Json = False) -> None:
    """Fit the policy of this model and this cloud to questions whose answers are known."""
    from edge.bench.calibrate import run_calibration

    run_calibration(flags, as_json=as_json)


@policy_app.command("learn")
@from_options(LearnFlags)
def learn(flags: LearnFlags, *, as_json: Json = False) -> None:
    """Fit the policy of this model and this cloud to prompts without known answers."""
    from edge.bench.learn import run_learning

    run_learning(flags, as_json=as_json)
