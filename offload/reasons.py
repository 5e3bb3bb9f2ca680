"""Reasons: the codes of Route with a sentence for each, and the decision that is recorded."""

from __future__ import annotations

from typing import Protocol

from offload.messages import BaseStruct, Finish, Request

REASONS = {
    "edge_only": "only the near model was asked",
    "cloud_only": "only the far model was asked",
    "confident": "the near model was sure of its answer",
    "small_talk": "the turn asks nothing, so it was answered near",
    "courtesy": "the turn asks nothing, so it was answered near",  # in older ledgers
    "unsure": "the near model was not sure, so the far one was asked",
    "forced_cloud": "you asked for the far model",
    "offline": "you are offline, so it was answered near",
    "local_only": "this text must not leave the device, so it was answered near",
    "private_turns": "the conversation holds turns that must not leave, so it was answered near",
    "token_ids": "token ids are the near model's own and cannot be searched, so it answered",
    "fill_in": "the text between two others is filled in near",
    "not_allowed": "you did not allow this text to leave, so it was answered near",
    "no_cloud": "no far model is set up, so it was answered near",
    "cloud_failed": "the far model could not answer, so it was answered near",
    "cut_off": "the far model was cut off in its answer, so the near one went on with it",
    "near_failed": "the near model failed in its answer, so the far one was asked",
    "too_long": "the text is too long for the near model, so the far one was asked",
    "too_hard": "the question looks too hard for the near model, so the far one was asked",
    "deadline": "the near model would not have finished in time, so the far one was asked",
    "no_time": "the far model would not have answered in time, so it was answered near",
    "hedged": "there was no time to try one model after the other, so both were asked",
    "check": "the far model was asked to read the near one's answer",  # in the ledger
    "checked": "the far model read the near one's answer and let it stand",
    "lend": "the far model was asked for the next words of the near one's answer",  # in the ledger
    "lent": "the near model wrote it, and the far one the words that it was not sure of",
    "divide": "the document was read near, and the far model worked with what was found there",
    "passed_on": "the near model's answer was passed on before it was doubted, so it stands",
    "neither": "the near model was not sure, and the far one would hardly know better",
    "over_price": "asking far would pass what this may cost, so it was answered near",
    "over_budget": "sending this would pass its byte budget, so it was answered near",
    "unreachable": "the far model did not answer lately, so it was answered near",
    "withheld": "the text holds what may not leave, so it was answered near",
    "day_cost": "today's budget of money is spent, so it was answered near",
    "day_tokens": "today's budget of tokens is spent, so it was answered near",
    "day_bytes": "sending this would pass today's budget of bytes, so it was answered near",
    "on_battery": "the device runs on battery and is to be spared, so the far one was asked",
    "pictures": "only the far model sees pictures",
    "pictures_near": "only the near model sees pictures",
    "hot": "the device is hot and is to be spared, so the far one was asked",
    "short_of_memory": "the device is short of memory, so the far one was asked",
    "explored": "the other side was drawn at random, to learn from it (policy.exploration)",
    "undecided": "the policy could not judge it (the log says why), so it was answered near",
    "asked_again": "it was answered near while the far model was out of reach, and is asked again",
}


def sentence(reason: str, right: float | None = None) -> str:
    """Return what a reason code means, in words; `right` is P(near right), where it is known."""
    if reason == "confident" and right is not None:
        return f"the near model was {sureness(right)} of its answer"
    return REASONS.get(reason, reason)


def sureness(probability: float) -> str:
    """Return a calibrated probability of being right in words, for a person.

    In words, since the figure is of other answers than this one.
    """
    if probability >= 0.85:
        return "sure"
    return "fairly sure" if probability >= 0.6 else "unsure"


class Decision(BaseStruct, frozen=True, kw_only=True, omit_defaults=True):
    """Decision on one request, and what came of it; it holds no text of the request.

    `inputs` are the figures that the policy saw, by name (confidence, rtt_s, p_gain, ...).
    `propensity` is the probability with which this policy chose the side it chose; 1 where
    nothing was drawn (policy.exploration), so that other policies can be valued by what is kept.
    """

    request_id: str
    began_at: float  # seconds since the epoch
    inputs: dict[str, float | str | bool | None]
    propensity: float = 1.0
    finish: Finish


class Recorder(Protocol):
    """Recorder of decisions; it must never raise into an answer, and never block for long."""

    def record(self, request: Request, decision: Decision) -> None:
        """Keep one decision; called once for each answer, when it ends."""
        ...

    def close(self) -> None:
        """Keep what is not yet kept; nothing is recorded afterwards."""
        ...
