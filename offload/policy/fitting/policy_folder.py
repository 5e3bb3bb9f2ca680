"""A policy on disk: its JSON file, and the arrays of its prior and its probe beside it."""

from __future__ import annotations

from pathlib import Path

from offload.policy.serving.calibrated import Calibrated
from offload.policy.serving.policy_file import prior_path, probe_path, write_policy
from offload.policy.serving.prior_file import save_prior
from offload.policy.serving.probe import save_probe


def save_policy(rule: Calibrated, path: Path) -> None:
    """Write a policy; the JSON file last, so that none names arrays that are not there.

    Raises SettingsError where it cannot be written.
    """
    if rule.prior is not None:
        save_prior(rule.prior, prior_path(path))
    if rule.probe is not None:
        save_probe(rule.probe, probe_path(path))
    else:
        probe_path(path).unlink(missing_ok=True)
    write_policy(rule.policy, path)
