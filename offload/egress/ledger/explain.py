"""Ledger in words: what left, and how one decision came about."""

from __future__ import annotations

import time
from collections.abc import Iterable

from offload.chain import onward_words
from offload.egress.ledger.entries import DecisionEntry, LedgerEntry, Totals
from offload.kind_words import found_in_words
from offload.reasons import sentence, sureness

_SIDES = {"edge": "near", "cloud": "far"}


def left_line(left: LedgerEntry) -> str:
    """Return one line of the list: when, how much, where to, why, what was found, how it ended."""
    departure, back = left.departure, left.back
    most = "" if back.bytes_sent is not None else "at most "
    line = (
        f"{_moment(departure.left_at)}  {most}{left.num_bytes:,} bytes to {departure.endpoint}: "
        f"{sentence(departure.why)}"
    )
    found = f"; {found_in_words(departure.found)}" if departure.found else ""
    said = f" in conversation {departure.conversation[:8]}" if departure.conversation else ""
    return (
        f"{line}{found}; {_STATES.get(back.state, back.state)}{said} ({departure.request_id[:12]})"
    )


_STATES = {
    "leaving": "under way, or cut off",
    "answered": "answered",
    "failed": "failed",
    "abandoned": "left before its end",
}


def is_about(left: LedgerEntry, words: str) -> bool:
    """Whether all words stand in what is told of an entry, in any case."""
    told = f"{left_line(left)} {left.departure.request_id} {left.departure.conversation}".lower()
    return all(word in told for word in words.lower().split())


def totals_line(totals: Totals, num_shown: int) -> str:
    """Return the last line: what it all comes to."""
    if totals.num_bytes == 0:
        return "nothing has left this device"
    cost = f", cost {totals.cost:.4g}" if totals.cost else ""
    older = totals.departures - num_shown
    rest = f" ({older} older ones not listed)" if older else ""
    return f"{totals.num_bytes} bytes left in {totals.departures} attempts{rest}{cost}"


def explained(decision: DecisionEntry, left: Iterable[LedgerEntry]) -> list[str]:
    """Return sentences that tell a decision: who, why, by which figures, its cost, what left."""
    finish, route = decision.finish, decision.finish.route
    lines = [f"Request {decision.request_id}, {_moment(decision.began_at)}, {decision.privacy}."]
    if route is not None:
        why = sentence(route.reason, route.confidence)
        lines.append(f"{why[0].upper()}{why[1:]} ({_SIDES[route.served_by]}).")
        lines += [f"{each[0].upper()}{each[1:]}." for each in onward_words(route)]
        if route.failure is not None:
            lines.append(f"The cloud said: {route.failure}.")
    lines += [*_estimates(decision), *_outcome(decision)]
    departures = list(left)
    if not departures:
        lines.append("Nothing of it left the device.")
    for each in departures:
        lines.append(_departed(each))
    if finish.error:
        lines.append(f"It ended in an error: {finish.error}.")
    return lines


def _estimates(decision: DecisionEntry) -> list[str]:
    """Return what the policy saw, where it saw anything."""
    inputs, lines = decision.inputs, []
    near, far = inputs.get("p_near"), inputs.get("p_far")
    if isinstance(near, float):
        beside = f", the far one as {sureness(far)}" if isinstance(far, float) else ""
        lines.append(f"The near answer counted as {sureness(near)}{beside}.")
    least = inputs.get("least_logprob")
    if isinstance(least, (int, float)):
        lines.append(f"The near model's least sure token had a log-probability of {least:.2f}.")
    if inputs.get("flags"):
        lines.append(f"Signs of trouble in its text: {inputs['flags']}.")
    if inputs.get("aim") not in (None, "auto"):
        lines.append(f"What was asked for: {inputs['aim']}.")
    if decision.propensity != 1.0:
        lines.append(f"This side was drawn with a probability of {decision.propensity:.3g}.")
    return lines


def _outcome(decision: DecisionEntry) -> list[str]:
    usage = decision.finish.usage
    seconds = usage.queue_s + usage.prefill_s + usage.decode_s
    took = f" in {seconds:.2f} s" if seconds else ""
    cost = f", for {usage.cost:.4g}" if usage.cost else ""
    return [
        f"{usage.prompt_tokens} tokens were read and {usage.completion_tokens} written"
        f"{took}{cost}; it ended by {decision.finish.reason}."
    ]


def _departed(left: LedgerEntry) -> str:
    departure = left.departure
    most = "" if left.back.bytes_sent is not None else "at most "
    found = f"; in the text: {found_in_words(departure.found)}" if departure.found else ""
    return (
        f"To {departure.endpoint} went {most}{left.num_bytes} bytes ({left.back.state}), "
        f"SHA-256 {departure.digest[:16]}{found}."
    )


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
