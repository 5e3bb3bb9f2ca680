"""Output of `nearfar policy ledger`, `explain`, `replay` and `outgoing`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from backbone.terminal_text import echo, echo_json
from offload.aims import parse_aim
from offload.config.places import places
from offload.egress.ledger.entries import DecisionEntry, LedgerEntry, Totals
from offload.egress.ledger.explain import explained, is_about, left_line, totals_line
from offload.egress.ledger.reading import open_book
from offload.egress.privacy.findings import Rules, counted
from offload.egress.privacy.redaction import clear
from offload.errors import RequestError
from offload.messages import Request
from offload.policy.serving.actions import worth_lines


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """Listing of everything that left, the newest first, and the sums over all of it."""

    totals: Totals
    left: list[LedgerEntry]


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Explanation of one decision, what left for it, and both in sentences."""

    decision: DecisionEntry
    left: list[LedgerEntry]
    report_lines: list[str]


def list_left(limit: int, *, find: str = "", as_json: bool) -> None:
    """Print what left, of all or of what the words `find` are told; a limit of 0 lists all."""
    with open_book(places().ledger) as book:
        left = [each for each in book.departures() if is_about(each, find)]
        listing = Listing(totals=book.totals(), left=left[: limit or None])
    if as_json:
        _print(listing)
        return
    for each in reversed(listing.left):
        echo(left_line(each))
    echo(totals_line(listing.totals, len(listing.left)))


def explain(name: str, *, as_json: bool) -> None:
    """Print one decision. Raises RequestError where it is not kept."""
    with open_book(places().ledger) as book:
        decision = book.decision(name)
        left = book.departures(request_id=decision.request_id)
    report_lines = [*explained(decision, left), *worth_lines(decision.inputs)]
    if as_json:
        _print(Explanation(decision=decision, left=left, report_lines=report_lines))
        return
    for line in report_lines:
        echo(line)


def replay(name: str, policy: Path | None, min_logprob: float | None, *, as_json: bool) -> None:
    """Print what another limit would have made of the decisions that are kept.

    Raises RequestError for an unknown aim, SettingsError for a policy that cannot be read.
    """
    from offload.pair import EDGE_POLICY
    from offload.policy.fitting.ledger_replay import limit_of, report_lines
    from offload.policy.fitting.ledger_replay import replay as run

    limit = limit_of(parse_aim(name), policy=policy or EDGE_POLICY, min_logprob=min_logprob)
    with open_book(places().ledger) as book:
        found = run(book.decisions(), limit, by_logprob=min_logprob is not None)
    if as_json:
        _print(found)
        return
    for line in report_lines(found):
        echo(line)


def value(name: str, policy: Path | None, rewards: Path, *, as_json: bool) -> None:
    """Print what an aim would have earned, by the kept decisions that were drawn at random.

    Raises RequestError for rewards that cannot be read or are too few.
    """
    from offload.pair import EDGE_POLICY
    from offload.policy.fitting.ledger_replay import limit_of
    from offload.policy.fitting.off_policy import (
        drawn_decisions,
        read_rewards,
        report_lines,
        value_of,
    )

    limit = limit_of(parse_aim(name), policy=policy or EDGE_POLICY, min_logprob=None)
    with open_book(places().ledger) as book:
        found = value_of(drawn_decisions(book.decisions(), read_rewards(rewards), limit))
    if as_json:
        _print(found)
        return
    for line in report_lines(found, name):
        echo(line)


def show_outgoing(text: str, rules: Rules, *, as_json: bool) -> None:
    """Print a text as it would leave, and what was found in it. Raises RequestError."""
    if not text.strip():
        raise RequestError("the text is empty; write one, or hand it to stdin")
    cleared = clear(Request(prompt=text), rules)
    found = counted(cleared.kinds, rules)
    blocked = [name for name in found if name.endswith(" block")]
    if as_json:
        document = {"leaves": not blocked, "text": cleared.request.prompt, "found": found}
        echo_json(msgspec.json.encode(document).decode())
        return
    echo(f"would not leave: {', '.join(blocked)}" if blocked else cleared.request.prompt)


def _print(document: msgspec.Struct) -> None:
    echo_json(msgspec.json.encode(document).decode())
