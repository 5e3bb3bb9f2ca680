"""Evaluation of the prior on a table of outcomes: `nearfar policy evaluate`.

No row is both fitted on and scored. Rows of the fit table whose prompt also stands in the test
table are not read for fitting; where that leaves too few (the two are the same file), a half of
the test rows, drawn by the seed, becomes the fit table and only the other half is scored. The
prompts of the fit table that were not drawn for their labels serve as unlabelled text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from backbone.errors import WrongUsage, cause
from backbone.file_reading import MAX_TABLE_BYTES, read_bytes
from backbone.files import require_outputs
from offload.errors import RequestError
from offload.policy.fitting import deferral_curve
from offload.policy.fitting.deferral_curve import Outcomes, draw
from offload.policy.serving.features import Floats
from offload.policy.serving.prior import MAX_LABELS, MIN_LABELS, DefaultPrior, Prior

FEATURES = ("prompt", "prompt+answer")


class OutcomeRow(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of one question: whether the near (weak) and the far (strong) model were right."""

    prompt: str
    weak_correct: bool
    strong_correct: bool
    task: str = ""
    weak_response: str = ""


def read_outcomes(path: Path) -> list[OutcomeRow]:
    """Read a table of outcomes; empty lines are passed over. Raises RequestError."""
    try:
        lines = read_bytes(path, MAX_TABLE_BYTES).splitlines()
    except OSError as error:
        raise RequestError(
            f"{path} cannot be read ({cause(error)}); name a file of outcomes (JSON lines)"
        ) from None
    rows = [_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise RequestError(f"{path} has no rows; give one JSON line per question")
    return rows


def as_outcomes(rows: list[OutcomeRow]) -> Outcomes:
    """Return the outcomes of some rows as arrays."""
    weak = np.array([row.weak_correct for row in rows], dtype=np.float64)
    return Outcomes(weak, np.array([row.strong_correct for row in rows], dtype=np.float64))


def _row(path: Path, number: int, line: bytes) -> OutcomeRow:
    try:
        return msgspec.json.decode(line, type=OutcomeRow)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RequestError(
            f"{path}, line {number} is no outcome ({cause(error)}); "
            "a row needs prompt, weak_correct and strong_correct"
        ) from None


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Result of `evaluate`; every cpt is a share of the requests, 0 to 1."""

    apgr: float
    cpt50: float
    cpt80: float
    cpt95: float
    auroc_gain: float
    auroc_weak_wrong: float | None
    ece_weak: float | None
    num_questions: int
    num_labels: int
    num_unlabelled: int
    features: str
    seed: int
    prior: str
    split: str
    notes: list[str]
    intervals: dict[str, tuple[float, float]]
    ceilings: dict[str, dict[str, float]]
    unseen_tasks: dict[str, float] | None = None


class OutcomeTables(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome rows by use: labels, text only, scoring; `split` says how they were kept apart."""

    labelled: list[OutcomeRow]
    unlabelled: list[OutcomeRow]
    scored: list[OutcomeRow]
    split: str


def evaluate(
    outcomes: Path,
    fit: Path,
    *,
    labels: int = 1500,
    seed: int = 0,
    features: str = "prompt",
    resamples: int = 1000,
    plot: Path | None = None,
    unseen_tasks: bool = False,
) -> Evaluation:
    """Fit on `labels` rows drawn from the table `fit`, score the table `outcomes`.

    `plot` is where the curve is drawn. With `unseen_tasks` each half of the tasks is also scored
    by a prior that was fitted on the other half only.

    Too few labels, or a near model that is always or never right in them, give the label-free
    default, and `notes` says so. Raises RequestError for a table that cannot be read.
    """
    _check(labels, features)
    tables = split_tables(read_outcomes(outcomes), read_outcomes(fit), labels=labels, seed=seed)
    require_outputs(plot)
    found = score(tables, features=features, seed=seed, resamples=resamples, plot=plot)
    if not unseen_tasks:
        return found
    return msgspec.structs.replace(found, unseen_tasks=score_unseen(tables, features))


def split_tables(
    test: list[OutcomeRow], train: list[OutcomeRow], *, labels: int, seed: int
) -> OutcomeTables:
    """Choose which rows give labels, which give only their text, and which are scored."""
    generator, prompts = np.random.default_rng(seed), {row.prompt for row in test}
    fresh = [row for row in train if row.prompt not in prompts]
    split = f"{len(train) - len(fresh)} rows of the fit table stand in the test table: left out"
    if 2 * len(fresh) < min(labels, len(train)):
        order = generator.permutation(len(test))
        halves = np.sort(order[: len(test) // 2]), np.sort(order[len(test) // 2 :])
        fresh, test = ([test[place] for place in half] for half in halves)
        held = {row.prompt for row in test}
        fresh = [row for row in fresh if row.prompt not in held]
        split = "the two tables are the same: one half, drawn by the seed, fitted, the other scored"
    order = generator.permutation(len(fresh))
    labelled = [fresh[place] for place in order[:labels]]
    unlabelled = [fresh[place] for place in order[labels:]]
    return OutcomeTables(labelled=labelled, unlabelled=unlabelled, scored=test, split=split)


def score(
    tables: OutcomeTables,
    *,
    features: str,
    seed: int,
    resamples: int = 1000,
    plot: Path | None = None,
) -> Evaluation:
    """Fit on the labelled rows, score the others, and measure the decisions."""
    truth = as_outcomes(tables.scored)
    prior, notes = fit_prior(tables, features)
    near, gains = _predicted(prior, tables.scored)
    if plot is not None:
        title = f"{len(tables.scored)} questions, {len(tables.labelled)} labels, by the {features}"
        curve = deferral_curve.deferral_curve(gains, truth)
        draw(curve, deferral_curve.ceilings(truth), plot, title=title)
    found = deferral_curve.figures(deferral_curve.deferral_curve(gains, truth))
    return Evaluation(
        apgr=found["apgr"],
        cpt50=found["cpt50"],
        cpt80=found["cpt80"],
        cpt95=found["cpt95"],
        auroc_gain=deferral_curve.auroc(gains, (truth.strong > truth.weak).astype(np.float64)),
        auroc_weak_wrong=None
        if near is None
        else deferral_curve.auroc(1.0 - near, 1.0 - truth.weak),
        ece_weak=None if near is None else deferral_curve.ece(near, truth.weak),
        num_questions=len(tables.scored),
        num_labels=len(tables.labelled) if near is not None else 0,
        num_unlabelled=len(tables.unlabelled) if near is not None else 0,
        features=features,
        seed=seed,
        prior="default" if near is None else "fitted",
        split=tables.split,
        notes=notes,
        intervals=deferral_curve.intervals(gains, truth, seed=seed, resamples=resamples),
        ceilings={
            name: deferral_curve.figures(each)
            for name, each in deferral_curve.ceilings(truth).items()
        },
    )


def score_unseen(tables: OutcomeTables, features: str) -> dict[str, float]:
    """Return the figures of each half of the tasks, scored by what the other half taught.

    Raises RequestError where the tables name fewer than four tasks.
    """
    tasks = sorted({row.task for row in tables.scored})
    if len(tasks) < 4:
        raise RequestError(f"the table names {len(tasks)} tasks; --unseen-tasks needs at least 4")
    gains, rows = list[Floats](), list[OutcomeRow]()
    for half in (set(tasks[::2]), set(tasks[1::2])):
        apart = OutcomeTables(
            labelled=[row for row in tables.labelled if row.task not in half],
            unlabelled=[row for row in tables.unlabelled if row.task not in half],
            scored=[row for row in tables.scored if row.task in half],
            split=tables.split,
        )
        prior, _ = fit_prior(apart, features)
        gains.append(_predicted(prior, apart.scored)[1])
        rows += apart.scored
    return deferral_curve.figures(
        deferral_curve.deferral_curve(np.concatenate(gains), as_outcomes(rows))
    )


def fit_prior(tables: OutcomeTables, features: str) -> tuple[Prior | DefaultPrior, list[str]]:
    """Return a fitted prior, or the default one with the reason why."""
    rows = tables.labelled
    answers = [row.weak_response for row in rows] if features == "prompt+answer" else None
    if answers is not None and not any(answers):
        raise RequestError("the fit table has no weak_response; leave out --features")
    try:
        prior = Prior.fit(
            [row.prompt for row in rows],
            [row.weak_correct for row in rows],
            [row.strong_correct for row in rows],
            answers=answers,
            unlabelled=[row.prompt for row in tables.unlabelled],
        )
    except RequestError as error:
        return DefaultPrior(), [f"the label-free default decided: {error}"]
    return prior, []


def _predicted(
    prior: Prior | DefaultPrior, rows: Sequence[OutcomeRow]
) -> tuple[Floats | None, Floats]:
    """Return P(near right), where the prior knows it, and the gain of every row."""
    if isinstance(prior, DefaultPrior):
        return None, np.array([prior.gain(row.prompt) for row in rows])
    both = np.array([prior.probabilities(row.prompt, row.weak_response) for row in rows])
    return both[:, 0], both[:, 1] - both[:, 0]


def _check(labels: int, features: str) -> None:
    if features not in FEATURES:
        raise WrongUsage(f"--features is {features!r}; it must be one of {', '.join(FEATURES)}")
    if not 1 <= labels <= MAX_LABELS:
        raise WrongUsage(
            f"--labels is {labels}; it must be from 1 to {MAX_LABELS}, and {MIN_LABELS} or more "
            "for the prior to learn from them"
        )
