"""The device's commands: ask, chat, doctor, models, bench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backbone.errors import WrongUsage, as_typed
from backbone.terminal_text import readable
from offload.commands.policy import policy_app

# Nothing heavier than this at the top: `nearfar --help` must answer at once.

ASKING, DEVICE = "Ask", "This device"  # the groups in which `nearfar --help` shows commands

app = typer.Typer()
bench_app = typer.Typer(help="Measure this device and the pair.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="A GGUF file, or the name of a model on this device."),
]
Offline = Annotated[bool, typer.Option("--offline", help="Use no network at all.")]
LocalOnly = Annotated[
    bool, typer.Option("--local-only", help="Let nothing of this text leave the device.")
]
System = Annotated[str | None, typer.Option("--system", "-s", help="A system prompt.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", help="The longest answer, in tokens.")]
Temperature = Annotated[
    float, typer.Option("--temperature", "-t", help="0 always takes the likeliest token.")
]
Window = Annotated[
    int | None,
    typer.Option("--window", help="Newest tokens kept when the context is full; 0 refuses."),
]
Kv = Annotated[
    str | None,
    typer.Option(
        "--kv",
        help="The type of the KV cache: auto, f16, q8_0, k8v4, q4_0; of GGUF files also f32, "
        "q5_0, q5_1, q4_1, iq4_nl or two as q8_0/q4_0; of folders, which torch runs, also int8, "
        "int4, int2.",
    ),
]
Draft = Annotated[
    str | None,
    typer.Option(
        "--draft",
        help="A draft model for speculative decoding: a smaller GGUF of the same vocabulary.",
    ),
]
Lora = Annotated[
    list[str] | None,
    typer.Option(
        "--lora", help="A LoRA adapter of the model, FILE.gguf or FILE.gguf:SCALE; may be repeated."
    ),
]
Files = Annotated[
    list[str] | None,
    typer.Option("--file", "-f", help="Attach a text file to the question; may be repeated."),
]


@app.command(rich_help_panel=ASKING)
def ask(
    prompt: Annotated[
        str | None,
        typer.Argument(
            help="The question; without one, or with -, it is read from stdin. Text that is piped "
            "in beside one is put before it."
        ),
    ] = None,
    model: Model = None,
    system: System = None,
    offline: Offline = False,
    local_only: LocalOnly = False,
    cloud: Annotated[bool, typer.Option("--cloud", help="Ask the far model.")] = False,
    why: Annotated[bool, typer.Option("--why", help="Say who answered, and why.")] = False,
    file: Files = None,
    max_tokens: MaxTokens = 1024,
    temperature: Temperature = 0.0,
    window: Window = None,
    kv: Kv = None,
    draft: Draft = None,
    lora: Lora = None,
    as_json: Json = False,
) -> None:
    """Ask one question: answered near, and far when that pays."""
    from edge.chat.ask import AskOptions, ask_once
    from edge.chat.question_text import question

    text = question(prompt)
    wish = AskOptions(
        model=model,
        system=readable(system) if system else None,
        offline=offline,
        local_only=local_only,
        cloud=cloud,
        max_tokens=max_tokens,
        temperature=temperature,
        window=window,
        kv=kv,
        draft=draft,
        lora=tuple(lora or ()),
        files=tuple(file or ()),
    )
    raise typer.Exit(ask_once(text, wish, why=why, as_json=as_json))


@app.command(rich_help_panel=ASKING)
def chat(
    first: Annotated[
        str | None, typer.Argument(help="The first question; without one you are asked for it.")
    ] = None,
    model: Model = None,
    system: System = None,
    offline: Offline = False,
    local_only: LocalOnly = False,
    latest: Annotated[
        bool, typer.Option("--continue", "-c", help="Go on with the last conversation.")
    ] = False,
    resume: Annotated[
        str | None, typer.Option("--resume", "-r", help="Go on with the conversation of this id.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep/--no-keep", help="Keep the conversation on this device.")
    ] = True,
    file: Files = None,
    max_tokens: MaxTokens = 1024,
    temperature: Temperature = 0.0,
    window: Window = None,
    kv: Kv = None,
    draft: Draft = None,
    lora: Lora = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each answer as a JSON line.")
    ] = False,
) -> None:
    """Have a conversation at the terminal; it is kept, and can be resumed."""
    from edge.chat.ask import AskOptions
    from edge.chat.chat_setup import Past, chat_on

    wish = AskOptions(
        model=model,
        system=readable(system) if system else None,
        offline=offline,
        local_only=local_only,
        max_tokens=max_tokens,
        temperature=temperature,
        window=window,
        kv=kv,
        draft=draft,
        lora=tuple(lora or ()),
        files=tuple(file or ()),
    )
    past = Past(latest=latest, resume=resume, keep=keep)
    raise typer.Exit(chat_on(wish, past, readable(first or ""), as_json=as_json))


@app.command(rich_help_panel=ASKING)
def assistant(
    model: Model = None,
    offline: Offline = False,
    port: Annotated[
        int, typer.Option("--port", "-p", min=0, max=65535, help="The port; 0 takes a free one.")
    ] = 8089,
    open_page: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in the browser.")
    ] = True,
    window: Annotated[
        bool, typer.Option("--window", help="A window of its own; closing it ends the assistant.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Say where, as one JSON line.")] = False,
) -> None:
    """Open the assistant: a page on this machine that keeps conversations."""
    from edge.assistant.server import run
    from edge.chat.ask import AskOptions

    run(
        AskOptions(model=model, offline=offline),
        port=port,
        open_page=open_page,
        as_json=as_json,
        in_window=window,
    )


@app.command(rich_help_panel=DEVICE)
def doctor(
    tune: Annotated[
        bool, typer.Option("--tune", help="Measure for up to a minute, and keep the best settings.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show this device, its models and its link, and what is wrong with them.

    The exit status is 1 where nothing can be answered here.
    """
    from edge.doctor.doctor import examine
    from edge.doctor.findings import show, tuned

    if tune:
        tuned(as_json=as_json)
    else:
        raise typer.Exit(show(examine(), as_json=as_json))


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
    cloud: Annotated[bool, typer.Option("--cloud", help="Ask the far model instead.")] = False,
    grader: Annotated[
        str, typer.Option(help="kind, exact, numeric, or module:function of (text, question).")
    ] = "kind",
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
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
        cloud=cloud,
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
