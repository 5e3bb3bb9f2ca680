"""Choice of the rule for a model: set by hand, calibrated for it, or that of the first day."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from edge.llama.adapters import content_with, parse_adapters
from edge.llama.gguf_file import fingerprint
from offload.config.places import Places
from offload.config.settings import Settings
from offload.errors import SettingsError
from offload.hybrid.answer_pair import Learner
from offload.pair import EDGE_MODEL, EDGE_POLICY
from offload.policy.serving.first_day import first_day
from offload.policy.serving.rule import Rule, ThresholdRule

if TYPE_CHECKING:
    from offload.policy.learning.learner import NearModel

_log = logging.getLogger("nearfar.policy")


def rule_for(model: Path | None, settings: Settings, here: Places) -> Rule | None:
    """Return the rule for a model file; None, with a warning, where its policy is of no use.

    A model of None is one whose file is not known, as a server's.
    Without a rule nothing may be sent: an answer near costs less than a wrong guess.
    """
    if settings.policy.min_logprob is not None:
        return ThresholdRule(min_logprob=settings.policy.min_logprob)
    if model is None:
        return first_day()
    path = policy_of(model, settings, here)
    if path is None:
        return _learnt(model, settings, here) or first_day()
    try:
        return _calibrated(path, model, settings)
    except SettingsError as error:
        _log.warning("nearfar: everything is answered near: %s", error)
        return None


def learner_for(model: Path, settings: Settings, here: Places) -> Learner | None:
    """Return who learns from far answers in use; None where that is off, or truth was learnt from.

    It only learns while the settings say so: they are read anew for each answer.
    """
    policy = settings.policy
    if policy.learn == "off" or policy.min_logprob is not None:
        return None
    if policy_of(model, settings, here) is not None:
        return None
    from offload.policy.learning.learner import LearningInUse

    return LearningInUse(here.learning, _near_model(model, settings))


def _learnt(model: Path, settings: Settings, here: Places) -> Rule | None:
    if not settings.policy.learns or not here.learning.is_dir():
        return None
    from offload.policy.learning.learner import open_learnt

    try:
        return open_learnt(here.learning, _near_model(model, settings))
    except SettingsError as error:
        _log.warning("nearfar: the rule of the first day decides: %s", error)
        return None


def _near_model(model: Path, settings: Settings) -> NearModel:
    from offload.policy.learning.learner import NearModel

    return NearModel(model.name, content_of(model, settings), settings.edge.kv_cache_dtype)


def policy_of(model: Path, settings: Settings, here: Places) -> Path | None:
    """Return the newest policy of this model and KV type, the shipped one for the shipped model."""
    kind = settings.edge.kv_cache_dtype.replace("/", "-")
    prefix = f"{content_of(model, settings)[:16]}-{kind}-"
    found = list(here.policies.glob(f"{prefix}*.json")) if here.policies.is_dir() else []
    if found:
        return max(found, key=lambda each: each.stat().st_mtime)
    shipped = model == EDGE_MODEL and not settings.edge.lora and EDGE_POLICY.exists()
    return EDGE_POLICY if shipped else None


def _calibrated(path: Path, model: Path, settings: Settings) -> Rule:
    # numpy and the prior's arrays are only needed where something was calibrated
    from offload.policy.serving.calibrated import load_calibrated
    from offload.policy.serving.policy_file import check_pairing

    rule = load_calibrated(path)
    kind = (
        rule.policy.pairing.kv_cache_dtype if path == EDGE_POLICY else settings.edge.kv_cache_dtype
    )
    check_pairing(rule.policy, path, edge_hash=content_of(model, settings), kv_cache_dtype=kind)
    return rule


def content_of(model: Path, settings: Settings) -> str:
    """Return a short name of a model's content: of a file with adapters, of a folder's weights."""
    if model.is_file():
        return content_with(fingerprint(model), parse_adapters(settings.edge.lora))
    # A pipe in the place of weights would be waited for; loading says what it is.
    weights = sorted(path for path in model.glob("*.safetensors") if path.is_file())
    return fingerprint(weights[0]) if weights else "0" * 32
