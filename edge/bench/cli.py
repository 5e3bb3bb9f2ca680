"""Commands `nearfar bench` and those of `nearfar policy` that ask a near model questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backbone.errors import WrongUsage, as_typed
from edge.near.flags import Draft, Far, Json, MaxTokens, Model, OldFar
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
        typer.Option(help="A text to judge them by; else one that the model writes itself."),
    ] = None,
    prompt_tokens: Annotated[
        int, typer.Option(min=8, help="Tokens of a prompt, or of the text to judge by.")
    ] = 512,
    answer_tokens: Annotated[int, typer.Option(min=8, help="Tokens to write.")] = 64,
    as_json: Json = False,
) -> None:
    """Time the near model on this device, and drafts; or compare types of its KV cache."""
    from edge.bench.bench import bench_kv, bench_speed
    from edge.chat.ask import AskOptions

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


@policy_app.command("answers")
def answers(
    questions: Annotated[
        Path, typer.Option(help="Questions with answers: JSON lines with question and answer.")
    ],
    out: Annotated[Path, typer.Option(help="The table: JSON lines; what it lacks is asked.")],
    split: Annotated[str | None, typer.Option(help="Only questions of this split.")] = None,
    model: Model = None,
    far: Far = False,
    cloud: OldFar = False,
    grader: Annotated[
        str, typer.Option(help="kind, exact, numeric, or module:function of (text, question).")
    ] = "kind",
    max_tokens: MaxTokens = 256,
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", help="0 always takes the likeliest token.")
    ] = 0.0,
    top_p: Annotated[float, typer.Option(help="Likeliest tokens of so much probability.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="For answers drawn at a temperature.")] = None,
    at_once: Annotated[int, typer.Option(help="How many questions are in flight.")] = 4,
    alternatives: Annotated[
        int, typer.Option(help="Likeliest tokens kept at each place, 0 to 20.")
    ] = 5,
    text: Annotated[
        bool, typer.Option("--text", help="Keep the questions' and the answers' text too.")
    ] = False,
    states: Annotated[
        bool, typer.Option("--states", help="Keep the hidden states of the last tokens too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask one model every question of a file, and keep what it made of each as a table."""
    from edge.bench.answer_questions import AnswersFlags, run_answers
    from offload.messages import Sampling

    with as_typed():
        sampling = Sampling(
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            max_tokens=max_tokens,
            logprobs=alternatives,
        )
        _at_least_one("--at-once", at_once)
    wish = AnswersFlags(
        questions=questions,
        out=out,
        split=split,
        model=model,
        far=far or cloud,
        grader=grader,
        sampling=sampling,
        at_once=at_once,
        keep_text=text,
        keep_states=states,
    )
    run_answers(wish, as_json=as_json)


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise WrongUsage(f"{name} is {value}; it must be at least 1")


@policy_app.command("calibrate")
def calibrate(
    questions: Annotated[
        Path, typer.Option(help="Questions with answers: JSON lines with question and answer.")
    ],
    split: Annotated[str | None, typer.Option(help="Only questions of this split.")] = None,
    model: Model = None,
    grader: Annotated[
        str, typer.Option(help="kind, exact, numeric, or module:function of (text, question).")
    ] = "kind",
    max_tokens: MaxTokens = 256,
    alpha: Annotated[float, typer.Option(help="Share wrong that is allowed near.")] = 0.05,
    delta: Annotated[float, typer.Option(help="How often that promise may fail.")] = 0.05,
    probe: Annotated[
        bool, typer.Option(help="Try a probe of the near model's hidden states.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Which half is fitted on.")] = 0,
    as_json: Json = False,
) -> None:
    """Fit the policy of this model and this cloud to questions whose answers are known."""
    from edge.bench.calibrate import CalibrateFlags, run_calibration
    from offload.policy.fitting.calibrator import CalibrationOptions

    with as_typed():
        options = CalibrationOptions(alpha=alpha, delta=delta, use_probe=probe, seed=seed)
    wish = CalibrateFlags(
        questions=questions,
        split=split,
        model=model,
        grader=grader,
        max_tokens=max_tokens,
        options=options,
    )
    run_calibration(wish, as_json=as_json)


@policy_app.command("learn")
def learn(
    prompts: Annotated[
        Path,
        typer.Option(help="Prompts of your own: one a line, or JSON lines with question."),
    ],
    budget: Annotated[int | None, typer.Option(help="Ask at most so many of them.")] = None,
    model: Model = None,
    max_tokens: MaxTokens = 256,
    seed: Annotated[int, typer.Option(help="Which half is fitted on.")] = 0,
    as_json: Json = False,
) -> None:
    """Fit the policy of this model and this cloud to prompts without known answers."""
    from edge.bench.learn import LearnFlags, run_learning
    from offload.policy.fitting.calibrator import CalibrationOptions

    if budget is not None:
        _at_least_one("--budget", budget)
    wish = LearnFlags(
        prompts=prompts,
        budget=budget,
        model=model,
        max_tokens=max_tokens,
        options=CalibrationOptions(seed=seed),
    )
    run_learning(wish, as_json=as_json)
