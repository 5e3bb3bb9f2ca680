"""Policy file: what calibration found for one near model, its KV cache type and one cloud model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from backbone.errors import cause
from backbone.file_reading import MAX_TEXT_BYTES, read_bytes
from backbone.files import SHARED, atomic_write
from offload.errors import RequestError, SettingsError
from offload.messages import BaseStruct, Count
from offload.policy.serving.calibration_math import Isotonic
from offload.policy.serving.logistic import Scorer

VERSION = 2


class Pairing(BaseStruct, frozen=True, kw_only=True):
    """Pair of models that a policy was calibrated for; any other pair has its own."""

    edge_model: str
    edge_hash: str
    quantization: str
    kv_cache_dtype: str
    cloud_model: str


class EarlyBounds(BaseStruct, frozen=True, kw_only=True):
    """Bounds below which an unfinished answer is given up.

    `bounds[level][checkpoint]`: below this score at that many tokens, an answer that would in the
    end be kept at P(right) >= `levels[level]` is given up by no more than its share of the error.
    """

    levels: tuple[float, ...]
    checkpoints: tuple[int, ...]
    bounds: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        wide = {len(row) for row in self.bounds} <= {len(self.checkpoints)}
        if len(self.bounds) != len(self.levels) or not wide:
            raise RequestError("the bounds of a policy do not fit together; calibrate again")


class HeldOutQuestions(BaseStruct, frozen=True, kw_only=True):
    """Held-out questions, on which nothing was fitted: thresholds are read off them."""

    scores: tuple[float, ...]
    gains: tuple[float, ...]
    near_right: tuple[bool, ...]
    far_right: tuple[bool, ...]

    def __post_init__(self) -> None:
        rows = (self.scores, self.gains, self.near_right, self.far_right)
        if len(set(map(len, rows))) != 1:
            raise RequestError("the held-out questions do not fit together; calibrate again")


class HeldOutFigures(BaseStruct, frozen=True, kw_only=True):
    """Figures of the policy on the held-out questions; shares are 0 to 1."""

    num_fitted: int
    num_held: int
    edge_accuracy: float
    cloud_accuracy: float
    auroc: float
    ece: float
    probe: str = ""  # why the probe is used, or is not


class PolicyFile(BaseStruct, frozen=True, kw_only=True):
    """Policy as calibration found it; the prior and the probe are npz files beside it."""

    version: int
    pairing: Pairing
    found: HeldOutFigures
    early_scorer: Scorer  # of the signals and the prior
    final_scorer: Scorer  # of the same, and of the probe where it is used
    near: Isotonic  # from the final scorer's score to P(near right)
    far: Isotonic  # from the prior's log odds to P(far right)
    early: EarlyBounds
    held: HeldOutQuestions
    flags: dict[str, tuple[Count, Count]]  # how many answers had it, how many of them were right
    min_gain: float  # how much likelier right the cloud must be for plain auto to ask it
    # a prior's gain from which nearly all went far in the end
    far_at_once_gain: float | None = msgspec.field(name="straight")
    alpha: Annotated[float, Meta(ge=0.0, le=1.0)]
    delta: Annotated[float, Meta(gt=0.0, lt=1.0)]
    has_prior: bool = False
    has_probe: bool = False
    answer_scorer: Scorer | None = None  # of answer_features.NAMES, in place of the final one
    questions: tuple[str, ...] = ()  # that it was fitted to or measured on (answered.mark_of)


def prior_path(policy: Path) -> Path:
    """Return where a policy's prior lies."""
    return policy.with_suffix(".prior.npz")


def probe_path(policy: Path) -> Path:
    """Return where a policy's probe lies."""
    return policy.with_suffix(".probe.npz")


def policy_name(pairing: Pairing) -> str:
    """Return the file name of a pairing's policy."""
    cloud = "".join(each if each.isalnum() else "-" for each in pairing.cloud_model)[:60]
    kv = pairing.kv_cache_dtype.replace("/", "-")
    return f"{pairing.edge_hash[:16]}-{kv}-{cloud}.json"


def read_policy(path: Path) -> PolicyFile:
    """Read a policy file. Raises SettingsError where it is missing, damaged or of another age."""
    try:
        policy = msgspec.json.decode(read_bytes(path, MAX_TEXT_BYTES), type=PolicyFile)
    except (
        *(OSError, msgspec.MsgspecError, RecursionError, UnicodeDecodeError),
        RequestError,
    ) as error:
        raise SettingsError(
            f"the policy file {path} cannot be read ({cause(error)}); calibrate again, "
            "or set policy.min_logprob"
        ) from None
    if not policy.held.gains:  # of one that is still being made
        raise SettingsError(f"the policy file {path} has no held-out questions; calibrate again")
    if policy.version != VERSION:
        raise SettingsError(
            f"the policy file {path} is of version {policy.version}, this nearfar reads {VERSION}; "
            "calibrate again"
        )
    return policy


def write_policy(policy: PolicyFile, path: Path) -> None:
    """Write a policy to `path`. Raises SettingsError where it cannot."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, msgspec.json.encode(policy) + b"\n", mode=SHARED)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written ({error.strerror}); free it") from None


def check_pairing(policy: PolicyFile, path: Path, *, edge_hash: str, kv_cache_dtype: str) -> None:
    """Raise SettingsError where a policy was calibrated for another model or KV type."""
    mine = policy.pairing
    if mine.edge_hash != edge_hash:
        raise SettingsError(
            f"the policy file {path} was calibrated for another model than this one "
            f"({mine.edge_model}, {mine.quantization}); run `nearfar policy calibrate`"
        )
    if mine.kv_cache_dtype != kv_cache_dtype:
        raise SettingsError(
            f"the policy file {path} was calibrated for {mine.kv_cache_dtype} KV cache, "
            f"not {kv_cache_dtype}; run `nearfar policy calibrate`"
        )
