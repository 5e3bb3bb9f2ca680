"""Command `nearfar policy calibrate`: both models answer a labelled set, and a policy is fitted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import Progress

from backbone.terminal_text import echo, echo_json
from edge.bench.answer_questions import reach, said_left_out
from edge.bench.flags import CalibrateFlags
from edge.models.local_models import find_model
from edge.near.factory import RunFlags, open_hybrid, settings_with
from edge.near.rule_choice import content_of
from offload.config.places import Places, places
from offload.config.settings import Settings
from offload.egress.permission import ConsentForAll
from offload.engine import Engine
from offload.errors import RequestError, SettingsError
from offload.messages import ModelCard, Sampling
from offload.policy.fitting.ask_questions import QuestionOptions
from offload.policy.fitting.calibrator import calibrate
from offload.policy.fitting.labelled_questions import LabelTables, label_questions
from offload.policy.fitting.questions import Question, find_grader, read_questions
from offload.policy.serving.calibrated import CalibratedRule, save_policy
from offload.policy.serving.policy_file import Pairing, policy_name


def run_calibration(flags: CalibrateFlags, *, as_json: bool) -> None:
    """Ask, fit and write the policy file; say what was found and where it lies."""
    questions = read_questions(flags.questions, split=flags.split)
    if not questions:
        raise RequestError(f"{flags.questions} has no such questions; name another file or split")
    rule, path, left_out = asyncio.run(_calibrate(questions, flags))
    said_left_out(left_out)
    found = {"policy": str(path), "left_out": left_out, **msgspec.to_builtins(rule.policy.found)}
    if as_json:
        echo_json(msgspec.json.encode(found).decode())
        return
    echo(_report(rule, path))


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Both engines of a policy that is to be fitted, and where it will lie."""

    edge: Engine
    cloud: Engine
    pairing: Pairing
    path: Path


@asynccontextmanager
async def both_sides(model: str | None, what: str) -> AsyncIterator[Sides]:
    """Open the near model and the cloud, asked for consent to `what` once. Raises SettingsError."""
    here, settings = places(), settings_with(model)
    hybrid = open_hybrid(settings, here, RunFlags(consent=ConsentForAll(what)))
    edge, cloud = hybrid.edge, hybrid.cloud
    async with aclosing(hybrid):
        if cloud is None:
            raise SettingsError(
                "no far model is set up; start `nearfar cloud serve` and set cloud.url"
            )
        await reach(cloud)
        pairing = _pairing(settings, here, edge.card(), cloud.card())
        path = here.policies / policy_name(pairing)
        yield Sides(edge=edge, cloud=cloud, pairing=pairing, path=path)


async def _calibrate(
    questions: list[Question], flags: CalibrateFlags
) -> tuple[CalibratedRule, Path, int]:
    async with both_sides(flags.model, "these questions") as sides:
        labels = LabelTables.at(sides.path.with_suffix(""))
        how = QuestionOptions(
            grader=find_grader(flags.grader), sampling=Sampling(max_tokens=flags.max_tokens)
        )
        with Progress(console=Console(stderr=True), transient=True) as bar:
            job = bar.add_task("asking both models", total=len(questions))
            left_out = await label_questions(
                questions,
                sides.edge,
                sides.cloud,
                labels,
                how,
                on_progress=lambda done: bar.update(job, completed=done),
            )
    rule = calibrate(*labels.of(questions), sides.pairing, flags.options())
    save_policy(rule, sides.path)
    return rule, sides.path, left_out


def _pairing(settings: Settings, here: Places, edge: ModelCard, cloud: ModelCard) -> Pairing:
    path = find_model(settings.edge.model, here.models)
    return Pairing(
        edge_model=path.name,
        edge_hash=content_of(path, settings),
        quantization=edge.quantization,
        kv_cache_dtype=settings.edge.kv_cache_dtype,
        cloud_model=cloud.name,
    )


def share_far(rule: CalibratedRule) -> float:
    """Return which share of the held questions plain auto would ask far."""
    gains = rule.policy.held.gains
    return sum(gain > rule.policy.min_gain for gain in gains) / max(1, len(gains))


_NO_BETTER = ": the far model is no better than the near one, so answers are kept near"


def _report(rule: CalibratedRule, path: Path) -> str:
    found = rule.policy.found
    return "\n".join(
        (
            f"{found.num_fitted} questions fitted on, {found.num_held} held back",
            f"right: near {found.edge_accuracy:.1%}, far {found.cloud_accuracy:.1%}"
            + ("" if found.cloud_accuracy > found.edge_accuracy else _NO_BETTER),
            f"on the held ones: AUROC {found.auroc:.3f}, calibration error {found.ece:.3f}, "
            f"{share_far(rule):.0%} would go far",
            f"probe of the hidden states {found.probe}",
            f"written to {path}",
        )
    )
