"""Command `nearfar policy calibrate`: both models answer a labelled set, and a policy is fitted."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import Progress

from backbone.terminal_text import echo, echo_json
from edge.bench.answer_questions import reach, said_left_out
from edge.models.local_models import find_model
from edge.near.factory import RunFlags, open_hybrid
from edge.near.rule_choice import content_of
from offload.config.places import Places, places
from offload.config.settings import Settings
from offload.config.settings_reading import load
from offload.egress.permission import ConsentForAll
from offload.errors import RequestError, SettingsError
from offload.messages import ModelCard, Sampling
from offload.policy.fitting.ask_questions import QuestionOptions
from offload.policy.fitting.calibrator import CalibrationOptions, calibrate
from offload.policy.fitting.labelled_questions import LabelTables, label_questions
from offload.policy.fitting.questions import Question, find_grader, read_questions
from offload.policy.serving.calibrated import CalibratedRule, save_policy
from offload.policy.serving.policy_file import Pairing, policy_name


@dataclass(frozen=True, kw_only=True)
class CalibrateFlags:
    """Flags of `policy calibrate`."""

    questions: Path
    split: str | None = None
    model: str | None = None
    grader: str = "kind"
    max_tokens: int = 256
    options: CalibrationOptions = CalibrationOptions()  # noqa: RUF009 - it is frozen


def run_calibration(flags: CalibrateFlags, *, as_json: bool) -> None:
    """Ask, fit and write the policy file; say what was found and where it lies."""
    questions = read_questions(flags.questions, split=flags.split)
    if not questions:
        raise RequestError(f"{flags.questions} has no such questions; name another file or split")
    here, settings = places(), load(places().config_file)
    if flags.model is not None:
        settings = replace(settings, edge=replace(settings.edge, model=flags.model))
    rule, path, left_out = asyncio.run(_calibrate(questions, flags, settings, here))
    said_left_out(left_out)
    found = {"policy": str(path), "left_out": left_out, **msgspec.to_builtins(rule.policy.found)}
    if as_json:
        echo_json(msgspec.json.encode(found).decode())
        return
    echo(_report(rule, path))


async def _calibrate(
    questions: list[Question], flags: CalibrateFlags, settings: Settings, here: Places
) -> tuple[CalibratedRule, Path, int]:
    hybrid = open_hybrid(settings, here, RunFlags(consent=ConsentForAll("these questions")))
    edge, cloud = hybrid.edge, hybrid.cloud
    async with aclosing(hybrid):
        if cloud is None:
            raise SettingsError("no cloud is set up; start `nearfar cloud serve` and set cloud.url")
        await reach(cloud)
        pairing = pairing_of(settings, here, edge.card(), cloud.card())
        path = here.policies / policy_name(pairing)
        labels = LabelTables.at(path.with_suffix(""))
        how = QuestionOptions(
            grader=find_grader(flags.grader), sampling=Sampling(max_tokens=flags.max_tokens)
        )
        with Progress(console=Console(stderr=True), transient=True) as bar:
            job = bar.add_task("asking both models", total=len(questions))
            left_out = await label_questions(
                questions,
                edge,
                cloud,
                labels,
                how,
                on_progress=lambda done: bar.update(job, completed=done),
            )
    rule = calibrate(*labels.of(questions), pairing, flags.options)
    save_policy(rule, path)
    return rule, path, left_out


def pairing_of(settings: Settings, here: Places, edge: ModelCard, cloud: ModelCard) -> Pairing:
    """Return which models a policy is fitted to."""
    path = find_model(settings.edge.model, here.models)
    return Pairing(
        edge_model=path.name,
        edge_hash=content_of(path, settings),
        quantization=edge.quantization,
        kv_cache_dtype=settings.edge.kv_cache_dtype,
        cloud_model=cloud.name,
    )


def _report(rule: CalibratedRule, path: Path) -> str:
    found, policy = rule.policy.found, rule.policy
    far = sum(gain > policy.min_gain for gain in policy.held.gains) / max(1, found.num_held)
    return "\n".join(
        (
            f"{found.num_fitted} questions fitted on, {found.num_held} held back",
            f"right: near {found.edge_accuracy:.1%}, far {found.cloud_accuracy:.1%}",
            f"on the held ones: AUROC {found.auroc:.3f}, calibration error {found.ece:.3f}, "
            f"{far:.0%} would go far",
            f"probe of the hidden states {found.probe}",
            f"written to {path}",
        )
    )
