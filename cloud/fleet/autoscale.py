"""Autoscaling: how many replicas there should be, as pure functions of measured load, and when.

Names and delays are those of Ray Serve's autoscaling_config, so that the same functions can be its
`policy_function` (cloud/ray_app.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from msgspec import Meta

from backbone.declared_options import require_bounds
from offload.errors import SettingsError

_DAY_S = 86_400.0
_RECENT = 120  # samples that a trend is read from
_KEPT_EVERY_S = 60.0  # of those before them, for what the same time yesterday brought
_KEPT_S = _DAY_S + 3600.0


@dataclass(frozen=True, kw_only=True)
class ScalingOptions:
    """Scaling options: bounds and delays. Raises SettingsError.

    `target_*` say what one replica should bear; a replica more is started after `upscale_delay_s`
    of need, one is stopped after `downscale_delay_s` without.
    """

    min_replicas: int = 1
    max_replicas: int = 1
    target_ongoing_requests: Annotated[float, Meta(gt=0)] = 2.0
    target_utilization: Annotated[float, Meta(gt=0)] = 0.7
    target_latency_s: Annotated[float, Meta(gt=0)] = 2.0
    upscale_delay_s: Annotated[float, Meta(ge=0)] = 30.0
    downscale_delay_s: Annotated[float, Meta(ge=0)] = 600.0
    look_ahead_s: Annotated[float, Meta(ge=0)] = 60.0  # how long a new replica takes to be of use

    def __post_init__(self) -> None:
        if not 0 <= self.min_replicas <= self.max_replicas or self.max_replicas < 1:
            raise SettingsError(
                f"min_replicas is {self.min_replicas} and max_replicas {self.max_replicas}; "
                "they must be 0 or more and 1 or more, the first not above the second"
            )
        require_bounds(self, SettingsError)


@dataclass(frozen=True, kw_only=True)
class LoadSample:
    """The load at one moment, over all replicas, those that are starting included."""

    at_s: float
    num_replicas: int
    num_starting: int = 0
    ongoing: float = 0.0  # answers in flight and waiting
    utilization: float = 0.0  # mean share of CPU or GPU, 0 to 1; 0 of one that is starting
    latency_s: float = 0.0  # mean of the answers that ended lately


ScalingPolicy = Callable[[Sequence[LoadSample], ScalingOptions], float]


def by_queue(samples: Sequence[LoadSample], options: ScalingOptions) -> float:
    """Return as many as let each bear `target_ongoing_requests`."""
    return samples[-1].ongoing / options.target_ongoing_requests


def by_utilization(samples: Sequence[LoadSample], options: ScalingOptions) -> float:
    """Return as many as bring the mean use to its target, as Kubernetes' HPA reckons."""
    now = samples[-1]
    return now.num_replicas * now.utilization / options.target_utilization


def by_latency(samples: Sequence[LoadSample], options: ScalingOptions) -> float:
    """Return as many as bring the mean latency to its target, at most twice those that are up.

    Those that are starting have not yet shown what they do for it. A latency below its target does
    not tell how much below its limit the load is; so no more are stopped than the use allows.
    """
    now = samples[-1]
    if not now.latency_s:
        return float(now.num_replicas if now.ongoing else 0)
    num_up = max(1, now.num_replicas - now.num_starting)
    wanted = num_up * min(2.0, now.latency_s / options.target_latency_s)
    if now.latency_s > options.target_latency_s:
        return max(wanted, float(now.num_replicas))
    return max(wanted, min(by_utilization(samples, options), now.num_replicas))


def predictive(samples: Sequence[LoadSample], options: ScalingOptions) -> float:
    """Return what the load will need when a replica that is started now is of use.

    Whichever is more: what is there now, Holt's linear trend (at most to twice the level), and
    what the same time yesterday brought.
    """
    level, trend_per_s = _holt(samples[-_RECENT:])
    coming = min(level + trend_per_s * options.look_ahead_s, 2.0 * level)
    due_s = samples[-1].at_s + options.look_ahead_s - _DAY_S
    width_s = max(options.look_ahead_s, 300.0)
    yesterday = [each.ongoing for each in samples if abs(each.at_s - due_s) <= width_s]
    usual = sum(yesterday) / len(yesterday) if yesterday else 0.0
    return max(samples[-1].ongoing, coming, usual) / options.target_ongoing_requests


SCALING_POLICIES: dict[str, ScalingPolicy] = {
    "queue": by_queue,
    "utilization": by_utilization,
    "latency": by_latency,
    "predictive": predictive,
}


def scaling_policy(name: str) -> ScalingPolicy:
    """Return the policy of a name. Raises SettingsError for one there is not."""
    if name not in SCALING_POLICIES:
        raise SettingsError(
            f"there is no scaling policy {name!r}; known are {', '.join(SCALING_POLICIES)}"
        )
    return SCALING_POLICIES[name]


def remember(samples: list[LoadSample], now: LoadSample) -> None:
    """Add a sample in place: the newest are all kept, and one a minute of a day before them."""
    samples.append(now)
    leaving = len(samples) - _RECENT - 1  # the sample that ceases to be one of the newest
    if leaving > 0 and samples[leaving].at_s - samples[leaving - 1].at_s < _KEPT_EVERY_S:
        del samples[leaving]
    if now.at_s - samples[0].at_s > _KEPT_S:
        del samples[0]


class Scaler:
    """Scaler: follows a policy within bounds and delays; time is that of the samples."""

    def __init__(self, policy: ScalingPolicy, options: ScalingOptions) -> None:
        self._policy, self._options = policy, options
        self._above_since_s: float | None = None
        self._below_since_s: float | None = None

    def decide(self, samples: Sequence[LoadSample]) -> int:
        """Return how many replicas there should be after the newest measure."""
        now, options = samples[-1], self._options
        wanted = math.ceil(self._policy(samples, options) - 1e-9)
        wanted = min(max(wanted, options.min_replicas), options.max_replicas)
        self._above_since_s = _since(wanted > now.num_replicas, self._above_since_s, now.at_s)
        self._below_since_s = _since(wanted < now.num_replicas, self._below_since_s, now.at_s)
        if _lasted(self._above_since_s, now.at_s, options.upscale_delay_s):
            return wanted
        if _lasted(self._below_since_s, now.at_s, options.downscale_delay_s):
            return wanted
        return now.num_replicas


def _since(holds: bool, since_s: float | None, now_s: float) -> float | None:
    if not holds:
        return None
    return now_s if since_s is None else since_s


def _lasted(since_s: float | None, now_s: float, delay_s: float) -> bool:
    return since_s is not None and now_s - since_s >= delay_s


def _holt(
    samples: Sequence[LoadSample], weight: float = 0.3, trend_weight: float = 0.03
) -> tuple[float, float]:
    """Return the smoothed load and its change each second (Holt 1957)."""
    level, trend = samples[0].ongoing, 0.0
    for before, now in pairwise(samples):
        step_s = max(now.at_s - before.at_s, 1e-9)
        expected = level + trend * step_s
        new = expected + weight * (now.ongoing - expected)
        trend += trend_weight * ((new - level) / step_s - trend)
        level = new
    return level, trend
