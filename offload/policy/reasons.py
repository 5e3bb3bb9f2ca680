"""Why a side answered: the reason codes of Route, and the sentence a person reads for each."""

from __future__ import annotations

REASONS = {
    "edge_only": "only the near model was asked",
    "cloud_only": "only the far model was asked",
    "confident": "the near model was sure of its answer",
    "unsure": "the near model was not sure, so the far one was asked",
    "forced_cloud": "you asked for the far model",
    "offline": "you are offline, so it was answered near",
    "local_only": "this text must not leave the device, so it was answered near",
    "not_allowed": "you did not allow this text to leave, so it was answered near",
    "no_cloud": "no cloud is set up, so it was answered near",
    "cloud_failed": "the cloud could not answer, so it was answered near",
    "too_long": "the text is too long for the near model, so the far one was asked",
    "over_budget": "sending this would pass its byte budget, so it was answered near",
}


def sentence(reason: str) -> str:
    """Return what a reason code means, in words."""
    return REASONS.get(reason, reason)
