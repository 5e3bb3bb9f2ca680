"""Replay of a rule on two answer tables: `nearfar policy evaluate --answers NEAR --far FAR`.

Nothing is fitted here. Every question that both tables hold is decided as while serving, from what
the near table knows of its answer, and compared with simple rules on the same answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from offload.aims import Aim
from offload.policy.fitting import deferral_curve
from offload.policy.fitting.answer_table import AnswerRow, PairedTables, mark_of
from offload.policy.fitting.deferral_curve import Outcomes, Ranked
from offload.policy.serving.answer_features import NAMES, PROMPT_NAMES
from offload.policy.serving.calibrated import CalibratedRule
from offload.policy.serving.features import Floats
from offload.policy.serving.first_day import FirstDayRule
from offload.policy.serving.flags import flags
from offload.policy.serving.rule import Estimate, Rule

Ints = npt.NDArray[np.int64]
Measures = dict[str, float | None]

RESAMPLES = 400
MEASURED = {*NAMES, *PROMPT_NAMES}
_LOWEST, _WIDEST = -30.0, 30.0  # nats; what is no number counts as the worst


class PolicyFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one policy on a table; None where it cannot be said. Shares are 0 to 1.

    A baseline sends as many far as the rule, those of the lowest score.
    """

    auroc: float | None
    auroc_within_sets: float | None
    apgr: float | None
    asked_far: float | None
    accuracy_near: float | None
    accuracy_far: float | None
    accuracy_hybrid: float | None
    ece: float | None
    intervals: dict[str, tuple[float, float]]


class TableReplay(PolicyFigures, frozen=True, kw_only=True):
    """Result of `evaluate --answers`: the rule's figures, and the baselines' by name."""

    rule: str
    num_questions: int
    baselines: dict[str, PolicyFigures]
    sets: dict[str, Measures]
    notes: list[str]


@dataclass(frozen=True)
class TableDecisions:
    """Decisions of one policy on every question: [questions].

    `score` is higher for a surer near answer, `right` is P(near right) where it says one, and
    those of the highest `need` go far first; `far` says who does.
    """

    score: Floats
    need: Floats
    far: Floats
    right: Floats | None = None


def evaluate_answers(near: Path, far: Path, rule: Rule, *, named: str) -> TableReplay:
    """Decide every question that both tables hold by a rule, and by the baselines."""
    pairs = PairedTables.read(near, far)
    notes = [*pairs.notes, *_notes(pairs), *_overlap(rule, pairs.near)]
    scored = _Scored(pairs)
    ours = decide_rows(rule, pairs.near)
    found = scored.compared(ours)
    share = float(ours.far.mean())
    sets = {name: scored.part(ours, places) for name, places in scored.sets.items()}
    return TableReplay(
        rule=named,
        num_questions=len(pairs.near),
        baselines={
            name: scored.compared(_at_share(*said, share)) for name, said in _baselines(pairs)
        },
        sets=sets,
        notes=notes,
        **msgspec.structs.asdict(found),
    )


def decide_rows(rule: Rule, rows: Sequence[AnswerRow]) -> TableDecisions:
    """Return what a rule says of finished answers, under the aim `auto`."""
    limit = rule.limit(Aim())
    said = [judged_row(rule, row) for row in rows]
    return TableDecisions(
        score=np.array([each.score for each in said]),
        need=np.array([each.need for each in said]),
        far=np.array([limit.passed_by(each) for each in said], dtype=np.float64),
        right=_probabilities(said),
    )


def judged_row(rule: Rule, row: AnswerRow) -> Estimate:
    """Return what a rule says of one finished answer of a table."""
    wrong = row.flags or flags(row.text, question=row.question, ended=row.ended)
    if isinstance(rule, FirstDayRule) and not row.text and row.measures.keys() >= MEASURED:
        return rule.judge_measures(row.measures, wrong)
    if isinstance(rule, CalibratedRule) and rule.judges_measures and not row.text and row.measures:
        return rule.judge_measures(row.measures, rule.expect(row.question), wrong)
    states = list(row.hidden_states()) if rule.watches_states and row.states else []
    return rule.judge(row.signals(), rule.expect(row.question), flags=wrong, states=states)


def _probabilities(said: Sequence[Estimate]) -> Floats | None:
    found = [each.right for each in said if each.right is not None]
    return np.array(found) if len(found) == len(said) else None


def _baselines(pairs: PairedTables) -> list[tuple[str, tuple[Floats, Floats | None]]]:
    """Return each baseline's score, and P(near right) where it says one."""
    tokens = [_clean(row) for row in pairs.near]
    least = np.array([each[:, 0].min() for each in tokens])
    mean, margin = (np.array([each[:, at].mean() for each in tokens]) for at in (0, 1))
    truth = np.array([row.right for row in pairs.near], dtype=np.float64)
    return [
        ("least", (least, np.exp(least))),
        ("mean_logprob", (mean, np.exp(mean))),
        ("mean_margin", (margin, None)),
        ("random", (np.zeros(len(truth)), None)),
        ("perfect_self_knowledge", (truth, truth)),
    ]


def _clean(row: AnswerRow) -> Floats:
    """Return the log-probabilities and margins of an answer, at least one, [tokens, 2]."""
    found = np.array([(each.logprob, each.margin) for each in row.tokens] or [(0.0, 0.0)])
    found[:, 0] = np.clip(np.nan_to_num(found[:, 0], nan=_LOWEST), _LOWEST, 0.0)
    found[:, 1] = np.clip(np.nan_to_num(found[:, 1], nan=0.0), 0.0, _WIDEST)
    return found


def _at_share(score: Floats, right: Floats | None, share: float) -> TableDecisions:
    """Send a share far, the lowest scores first; of equals, each the same part."""
    ranked, far = Ranked.by(-score), np.zeros(len(score))
    left, start = share * len(score), 0
    for end in ranked.ends:
        part = min(1.0, max(0.0, left) / (end - start))
        far[ranked.order[start:end]] = part
        left, start = left - (end - start), end
    return TableDecisions(score, -score, far, right)


class _Scored:
    """Scorer of decisions against the truth of two tables."""

    def __init__(self, pairs: PairedTables) -> None:
        self.near = np.array([row.right for row in pairs.near], dtype=np.float64)
        self.far = np.array(pairs.far_right, dtype=np.float64)
        names = np.array([row.set for row in pairs.near])
        self.sets = {str(name): np.flatnonzero(names == name) for name in np.unique(names)}

    def compared(self, said: TableDecisions) -> PolicyFigures:
        """Return the figures of one way to decide, with 95% intervals over the questions."""
        whole = self._measures(said, np.arange(len(self.near)))
        generator, drawn = np.random.default_rng(0), list[Measures]()
        for _ in range(RESAMPLES):
            drawn.append(
                self._measures(said, generator.integers(0, len(self.near), len(self.near)))
            )
        return PolicyFigures(**whole, intervals=_intervals(drawn))

    def part(self, said: TableDecisions, places: Ints) -> Measures:
        """Return the figures on some of the questions."""
        found = self._measures(said, places)
        return {"num_questions": float(len(places)), **found}

    def _measures(self, said: TableDecisions, at: Ints) -> Measures:
        near, far, went = self.near[at], self.far[at], said.far[at]
        right = None if said.right is None else said.right[at]
        return {
            "auroc": _auroc(said.score[at], near),
            "auroc_within_sets": self._within(said.score, at),
            "apgr": _apgr(said.need[at], near, far),
            "asked_far": float(went.mean()),
            "accuracy_near": float(near.mean()),
            "accuracy_far": float(far.mean()),
            "accuracy_hybrid": float((went * far + (1.0 - went) * near).mean()),
            "ece": None if right is None else deferral_curve.ece(right, near),
        }

    def _within(self, score: Floats, at: Ints) -> float | None:
        found = []
        for places in self.sets.values():
            inside = at[np.isin(at, places)]
            if len(inside) and (each := _auroc(score[inside], self.near[inside])) is not None:
                found.append(each)
        return float(np.mean(found)) if found else None


def _auroc(score: Floats, near: Floats) -> float | None:
    return None if near.min() == near.max() else deferral_curve.auroc(score, near)


def _apgr(need: Floats, near: Floats, far: Floats) -> float | None:
    if far.sum() <= near.sum():
        return None
    return deferral_curve.deferral_curve(need, Outcomes(near, far)).apgr


def _intervals(drawn: Sequence[Measures]) -> dict[str, tuple[float, float]]:
    found = {}
    for name in drawn[0]:
        known = [value for each in drawn if (value := each[name]) is not None]
        if known:
            low, high = np.quantile(known, (0.025, 0.975))
            found[name] = (float(low), float(high))
    return found


def _notes(pairs: PairedTables) -> list[str]:
    """Return what a reader should know of these tables."""
    near, far = [row.right for row in pairs.near], pairs.far_right
    notes = []
    if len(set(near)) == 1:
        notes.append(
            f"the near model is {'always' if near[0] else 'never'} right here: "
            "auroc needs right and wrong answers, and is left empty"
        )
    if sum(far) <= sum(near):
        notes.append(
            f"the far model is right {sum(far)} times and the near one {sum(near)} of {len(near)}: "
            "asking far gains nothing, and apgr is left empty"
        )
    if bare := sum(not row.tokens for row in pairs.near):
        notes.append(f"{bare} near answers have no tokens: they are judged by their text alone")
    if bare := sum(not row.question and not row.measures for row in pairs.near):
        notes.append(f"{bare} near answers stand without their question: no rule can read it")
    return notes


def _overlap(rule: Rule, rows: Sequence[AnswerRow]) -> list[str]:
    """Return what of a table the rule was fitted to: on that its figures are too good."""
    questions, models = _fitted_on(rule)
    if not questions:
        return ["the policy does not say which questions it was fitted to"]
    marks = [mark_of(row) for row in rows]
    seen = sum(mark in questions for mark in marks)
    notes = []
    if seen:
        notes.append(f"the rule was fitted to {seen} of these {len(rows)} questions")
    if None in marks:
        notes.append(f"{marks.count(None)} questions are not known by text or key: not checked")
    if known := sorted({row.model for row in rows if row.model} & models):
        notes.append(f"the rule was fitted to answers of {', '.join(known)}")
    if seen or known:
        notes.append("figures on what a rule was fitted to are too good: see docs/policy.md")
    return notes


def _fitted_on(rule: Rule) -> tuple[set[str], set[str]]:
    if isinstance(rule, FirstDayRule):
        return set(rule.file.fitted_on.questions), set(rule.file.fitted_on.models)
    if isinstance(rule, CalibratedRule):
        return set(rule.policy.questions), {rule.policy.pairing.edge_model}
    return set(), set()


def report_lines(found: TableReplay) -> list[str]:
    """Return what was found, for a person."""
    rows: Mapping[str, PolicyFigures] = {found.rule: found, **found.baselines}
    head = f"{'':24}" + "".join(f"{name:>18}" for name in _COLUMNS)
    table = [
        f"{name:24}" + "".join(_cell(row, each) for each in _COLUMNS) for name, row in rows.items()
    ]
    return [f"{found.num_questions} questions in both tables", head, *table, *found.notes]


_COLUMNS: dict[str, Callable[[PolicyFigures], float | None]] = {
    "auroc": lambda row: row.auroc,
    "within sets": lambda row: row.auroc_within_sets,
    "apgr": lambda row: row.apgr,
    "asked far": lambda row: row.asked_far,
    "hybrid right": lambda row: row.accuracy_hybrid,
    "ece": lambda row: row.ece,
}


def _cell(row: PolicyFigures, column: str) -> str:
    value = _COLUMNS[column](row)
    return f"{'-' if value is None else format(value, '.3f'):>18}"
