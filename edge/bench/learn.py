"""Command `nearfar policy learn`: fits a policy without labels, the far answers taken as truth."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import Progress

from backbone.terminal_text import echo, echo_json
from edge.bench.answer_questions import said_left_out
from edge.bench.calibrate import both_sides, share_far
from edge.bench.flags import LearnFlags
from offload.messages import Sampling
from offload.policy.fitting.answer_table import AnswerTable
from offload.policy.fitting.ask_questions import QuestionOptions
from offload.policy.fitting.calibrator import CalibrationOptions, calibrate
from offload.policy.fitting.far_labels import FarLabels, label_by_far, read_prompts
from offload.policy.fitting.labelled_questions import LabelTables, label_questions
from offload.policy.fitting.questions import Question
from offload.policy.serving.calibrated import CalibratedRule, save_policy


def run_learning(flags: LearnFlags, *, as_json: bool) -> None:
    """Ask both models, label, fit and write the policy; say what was found and where it lies."""
    questions = read_prompts(flags.prompts, budget=flags.budget)
    rule, path, labels, left_out = asyncio.run(_learn(questions, flags))
    said_left_out(left_out)
    if not labels.believed:
        echo(
            f"nearfar: the far model called {labels.false_yes:.0%} of answers to other questions "
            "right, so its judgement of open answers was left out; only what can be compared "
            "was learnt from",
            err=True,
        )
    if as_json:
        found = {
            "policy": str(path),
            "compared": labels.num_compared,
            "judged": labels.num_judged,
            "left_out": labels.num_left_out,
            "false_yes": labels.false_yes,
            **msgspec.to_builtins(rule.policy.found),
        }
        echo_json(msgspec.json.encode(found).decode())
        return
    echo(_report(rule, path, labels))


async def _learn(
    questions: list[Question], flags: LearnFlags
) -> tuple[CalibratedRule, Path, FarLabels, int]:
    async with both_sides(flags.model, "these prompts") as sides:
        # With texts, which labels are made from: these files end with the run that reads them.
        base = sides.path.with_name(f"{sides.path.stem}.learning")
        tables = LabelTables.at(base)
        judged = AnswerTable(base.with_name(f"{base.name}.judged.jsonl"))
        how = QuestionOptions(
            grader=lambda text, question: False,  # nobody knows yet
            sampling=Sampling(max_tokens=flags.max_tokens),
            keep_text=True,
        )
        with Progress(console=Console(stderr=True), transient=True) as bar:
            job = bar.add_task("asking both models", total=len(questions))
            move = lambda done: bar.update(job, completed=done)  # noqa: E731
            left_out = await label_questions(
                questions, sides.edge, sides.cloud, tables, how, on_progress=move
            )
            bar.update(job, description="judging what cannot be compared")
            labels = await label_by_far(
                questions, tables.near, tables.far, sides.cloud, judged, how
            )
    options = CalibrationOptions(seed=flags.seed)
    rule = calibrate(labels.questions, labels.rows, sides.pairing, options, by_agreement=True)
    save_policy(rule, sides.path)
    for table in (tables.near, tables.far, judged):
        table.path.unlink(missing_ok=True)
    return rule, sides.path, labels, left_out


def _report(rule: CalibratedRule, path: Path, labels: FarLabels) -> str:
    found = rule.policy.found
    judged = f", {labels.num_judged} judged by the far model" if labels.num_judged else ""
    return "\n".join(
        (
            f"{labels.num_compared} answers compared with the far model's{judged}, "
            f"{labels.num_left_out} prompts left out",
            f"the near model says what the far one says in {found.edge_accuracy:.1%}",
            f"on the half held back: AUROC {found.auroc:.3f}, calibration error {found.ece:.3f}, "
            f"{share_far(rule):.0%} would go far; all against the far model's answers, which are "
            "not always right",
            f"written to {path}",
        )
    )
