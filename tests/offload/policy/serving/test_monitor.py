"""The monitor of an answer while it is written, under a threshold set by hand."""

from __future__ import annotations

import math

import pytest

from offload.aims import Aim
from offload.errors import SettingsError
from offload.messages import Confidence, Delta
from offload.policy.serving.monitor import Monitor
from offload.policy.serving.rule import ThresholdRule


def _monitor(min_logprob: float) -> Monitor:
    rule = ThresholdRule(min_logprob=min_logprob)
    return Monitor(rule, rule.limit(Aim()))


def _tokens(*logprobs: float) -> Delta:
    return Delta(confidence=tuple(Confidence(each, 0, 0) for each in logprobs))


def test_the_monitor_trips_on_its_least_sure_token_and_stays_tripped() -> None:
    monitor = _monitor(-1.0)
    monitor.see(_tokens(-0.5))
    assert not monitor.tripped
    monitor.see(_tokens(-0.1, -2.0))
    assert monitor.tripped
    monitor.see(_tokens(-0.1))
    monitor.conclude()
    assert monitor.tripped
    assert monitor.estimate().score == -2.0 and monitor.estimate().right is None


def test_a_token_without_a_number_counts_as_unsure() -> None:
    monitor = _monitor(-0.7)
    monitor.see(_tokens(math.nan))
    assert monitor.tripped and monitor.estimate().score <= -20.0


@pytest.mark.parametrize("value", [0.1, math.nan])
def test_a_threshold_that_means_nothing_is_refused(value: float) -> None:
    with pytest.raises(SettingsError):
        ThresholdRule(min_logprob=value)
