"""The policy file of a model: the threshold that was calibrated for it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from offload.errors import SettingsError
from offload.policy.monitor import Threshold


class PolicyFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What calibration found for one edge model, and on how many questions."""

    edge_model: str
    quantization: str
    min_logprob: float
    num_questions: int
    edge_accuracy: float
    escalated_share: float


def read_policy(path: Path) -> PolicyFile:
    """Read a policy file. Raises SettingsError where it is missing or damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=PolicyFile)
    except (OSError, msgspec.MsgspecError) as error:
        raise SettingsError(
            f"the policy file {path} cannot be read ({error}); calibrate again, "
            "or set policy.min_logprob"
        ) from None


def threshold(path: Path, min_logprob: float | None) -> Threshold:
    """Return the threshold set by hand, else the calibrated one, else the label-free default."""
    if min_logprob is not None:
        return Threshold(min_logprob=min_logprob)
    if path.exists():
        return Threshold(min_logprob=read_policy(path).min_logprob)
    return Threshold()
