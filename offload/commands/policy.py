"""Commands of `nearfar policy`: evaluate, show, forget, ledger, explain, replay, ..."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backbone.errors import WrongUsage
from backbone.terminal_text import echo, echo_json

if TYPE_CHECKING:
    from offload.policy.fitting.evaluate import Evaluation

policy_app = typer.Typer(help="Who answers, and how well that was decided.", no_args_is_help=True)


@policy_app.command()
def evaluate(
    outcomes: Annotated[
        Path | None,
        typer.Option(help="Outcomes to score: JSON lines with prompt, weak_correct, ..."),
    ] = None,
    fit: Annotated[
        Path | None, typer.Option(help="Outcomes to learn from, in the same form.")
    ] = None,
    rewards: Annotated[
        Path | None,
        typer.Option(
            help="Instead: value --aim by the ledger's drawn decisions; "
            "JSON lines with request_id and reward."
        ),
    ] = None,
    aim: Annotated[str, typer.Option(help="With --rewards: the aim to value.")] = "auto",
    answers: Annotated[
        Path | None,
        typer.Option(help="Instead: a table of near answers, decided by a rule; needs --far."),
    ] = None,
    far: Annotated[
        Path | None, typer.Option(help="With --answers: the far model's table of the same.")
    ] = None,
    checked: Annotated[
        Path | None,
        typer.Option(help="With --answers: what the far model told of the near ones (check)."),
    ] = None,
    lent: Annotated[
        Path | None,
        typer.Option(help="With --answers: near answers with words of the far model (lend)."),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            help="With --rewards: a policy file; else the one that ships. "
            "With --answers: a policy file; else the rule of the first day."
        ),
    ] = None,
    labels: Annotated[int, typer.Option(help="How many labelled rows to learn from.")] = 1500,
    seed: Annotated[int, typer.Option(help="Which rows are drawn.")] = 0,
    features: Annotated[
        str, typer.Option(help="Judge by the prompt, or by prompt+answer.")
    ] = "prompt",
    plot: Annotated[
        Path | None, typer.Option(help="Draw the curve into this file (PNG or SVG).")
    ] = None,
    unseen_tasks: Annotated[
        bool, typer.Option("--unseen-tasks", help="Also score tasks that were not learned from.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document and nothing else.")
    ] = False,
) -> None:
    """Measure how well a rule decides on tables of answers, the prior, or an aim on the ledger."""
    import msgspec

    if rewards is not None:
        from offload.commands.ledger import value

        value(aim, policy, rewards, as_json=as_json)
        return
    if answers is not None or far is not None:
        _evaluate_answers(answers, far, policy, checked=checked, lent=lent, as_json=as_json)
        return
    if outcomes is None or fit is None:
        raise typer.BadParameter("give --outcomes and --fit, --answers and --far, or --rewards")
    from offload.policy.fitting.evaluate import evaluate as run

    found = run(
        outcomes,
        fit,
        labels=labels,
        seed=seed,
        features=features,
        plot=plot,
        unseen_tasks=unseen_tasks,
    )
    if as_json:
        echo_json(msgspec.json.encode(found).decode())
    else:
        echo(_told(found))


def _evaluate_answers(
    answers: Path | None,
    far: Path | None,
    policy: Path | None,
    *,
    checked: Path | None,
    lent: Path | None,
    as_json: bool,
) -> None:
    import msgspec

    from offload.policy.fitting.table_replay import evaluate_answers, report_lines
    from offload.policy.serving.first_day import first_day
    from offload.policy.serving.rule import Rule

    if answers is None or far is None:
        raise WrongUsage("--answers and --far belong together; give both tables")
    rule: Rule = first_day()
    if policy is not None:
        from offload.policy.serving.calibrated import load_calibrated

        rule = load_calibrated(policy)
    if checked is not None or lent is not None:
        from offload.policy.fitting.action_replay import action_lines, replay_actions

        actions = replay_actions(answers, far, rule, checked=checked, lent=lent)
        if as_json:
            echo_json(msgspec.json.encode(actions).decode())
        else:
            echo("\n".join(action_lines(actions)))
        return
    named = "the rule of the first day" if policy is None else policy.name
    found = evaluate_answers(answers, far, rule, named=named)
    if as_json:
        echo_json(msgspec.json.encode(found).decode())
    else:
        echo("\n".join(report_lines(found)))


def _told(found: Evaluation) -> str:
    """Say in lines what was found, with what it can be compared to."""
    low, high = found.intervals["apgr"]
    report_lines = [
        f"{found.num_questions} questions scored, {found.num_labels} labels learned from",
        f"APGR     {found.apgr:.3f}  ({low:.3f} to {high:.3f} in 95 of 100 resamples)",
        *(f"CPT{level}    {getattr(found, f'cpt{level}'):6.1%}" for level in (50, 80, 95)),
        f"AUROC    {found.auroc_gain:.3f} of who gains by asking far",
        *([] if found.ece_weak is None else [f"ECE      {found.ece_weak:.3f} of P(near right)"]),
        *(f"{name:16} APGR {each['apgr']:.3f}" for name, each in found.ceilings.items()),
        *(
            [f"unseen tasks     APGR {found.unseen_tasks['apgr']:.3f}"]
            if found.unseen_tasks
            else []
        ),
        found.split,
        *found.notes,
    ]
    return "\n".join(report_lines)


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


@policy_app.command()
def show(as_json: Json = False) -> None:
    """Show what the policy learnt in use: from which models, how many answers, and when."""
    from offload.commands.learned import show as run

    run(as_json=as_json)


@policy_app.command()
def forget(as_json: Json = False) -> None:
    """Forget what was learnt in use; the rule of the first day decides again."""
    from offload.commands.learned import forget as run

    run(as_json=as_json)


@policy_app.command()
def ledger(
    limit: Annotated[int, typer.Option(help="How many of the newest; 0 for all.")] = 0,
    find: Annotated[
        str, typer.Option(help="Only those that all these words are told of, as in `failed name`.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Tell of every question that left: when, how many bytes, where to, why, what was replaced."""
    from offload.commands.ledger import list_left

    list_left(limit, find=find, as_json=as_json)


@policy_app.command()
def explain(
    request: Annotated[
        str, typer.Argument(help="A request's id, or how it begins; the newest is `last`.")
    ] = "last",
    as_json: Json = False,
) -> None:
    """Tell in sentences how one decision came about and what left for it."""
    from offload.commands.ledger import explain as run

    run(request, as_json=as_json)


@policy_app.command()
def replay(
    aim: Annotated[
        str, typer.Option(help="What to aim at: auto, auto-q95, auto-b20, ...")
    ] = "auto",
    policy: Annotated[
        Path | None, typer.Option(help="A policy file; without one, the one that ships.")
    ] = None,
    min_logprob: Annotated[
        float | None, typer.Option(help="Judge by the least token log-probability instead.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Replay the kept decisions under another limit: what would have gone far."""
    from offload.aims import LISTED, parse_aim
    from offload.commands.ledger import replay as run
    from offload.errors import RequestError

    if min_logprob is not None and policy is not None:
        raise WrongUsage("--min-logprob judges without a policy; leave out --policy")
    try:
        parse_aim(aim)
    except RequestError:
        raise WrongUsage(f"--aim is {aim!r}; it must be one of {', '.join(LISTED)}") from None
    run(aim, policy, min_logprob, as_json=as_json)


@policy_app.command()
def outgoing(
    text: Annotated[str, typer.Argument(help="A text; with - it is read from stdin.")] = "-",
    as_json: Json = False,
) -> None:
    """Show what would leave of a text: placeholders stand for what is kept here."""
    import sys

    from offload.commands.ledger import show_outgoing
    from offload.config.places import places
    from offload.config.settings_reading import load

    whole = sys.stdin.read() if text == "-" else text
    show_outgoing(whole, load(places().config_file).privacy.rules(), as_json=as_json)


@policy_app.command()
def outbox(
    forget: Annotated[
        str | None, typer.Option(help="Forget the question of this id, or `all`.")
    ] = None,
    ask: Annotated[bool, typer.Option("--ask", help="Send the waiting questions now.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """List the questions that wait for the cloud to come back."""
    from offload.commands import outbox

    if forget is not None and ask:
        raise WrongUsage("--forget and --ask contradict each other; leave one out")
    if forget is not None:
        outbox.forget(forget, as_json=as_json)
    elif ask:
        outbox.ask_again(as_json=as_json)
    else:
        outbox.list_waiting(as_json=as_json)
