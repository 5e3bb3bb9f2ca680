"""Parts of benchmarks/policy.py: what it measures, each as plain numbers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from offload.aims import parse_aim
from offload.messages import Confidence, Delta, Finish, Message, Request
from offload.pair import EDGE_MODEL, EDGE_POLICY
from offload.policy.fitting import deferral_curve
from offload.policy.fitting.calibrator import judged
from offload.policy.fitting.evaluate import read_outcomes
from offload.policy.fitting.labelled_questions import LabelledRow
from offload.policy.fitting.probe_fit import fit_probe
from offload.policy.fitting.questions import Question
from offload.policy.serving.calibrated import CalibratedRule, load_calibrated
from offload.policy.serving.calibration_math import certified
from offload.policy.serving.controller import BudgetController
from offload.policy.serving.features import Floats
from offload.policy.serving.logistic import fit_scorer
from offload.policy.serving.monitor import Monitor
from offload.policy.serving.prior import Prior
from offload.policy.serving.rule import Estimate, Limit
from offload.policy.serving.signals import NAMES

OUTCOMES = Path(__file__).resolve().parents[2] / "shared" / "data" / "routing"
ALPHAS, DELTA, NUM_RESAMPLES, NUM_DRAWN = (0.05, 0.1, 0.2, 0.3, 0.5), 0.05, 1000, 500
WINDOW = 500


@dataclass(frozen=True)
class Both:
    """Questions with both models' answers."""

    questions: Sequence[Question]
    rows: Sequence[LabelledRow]

    @property
    def near(self) -> Floats:
        return np.array([row.near_right for row in self.rows], dtype=np.float64)

    @property
    def far(self) -> Floats:
        return np.array([row.far_right for row in self.rows], dtype=np.float64)


def live(rule: CalibratedRule, answered: Both) -> dict[str, object]:
    """Decide the test questions as while serving, and compare with the lines of reference."""
    said = _judged(rule, answered)
    right, needs = np.array([e.right for e in said]), np.array([e.need for e in said])
    scores, truth = (
        np.array([e.score for e in said]),
        deferral_curve.Outcomes(answered.near, answered.far),
    )
    curve, lines = deferral_curve.deferral_curve(needs, truth), deferral_curve.ceilings(truth)
    known = lines["self_knowledge"].apgr
    least = np.array([row.near.signals().least for row in answered.rows])
    return {
        "questions": len(said),
        "auroc": deferral_curve.auroc(scores, answered.near),
        "auroc_interval95": _spread(
            lambda at: deferral_curve.auroc(scores[at], answered.near[at]), said
        ),
        "auroc_least_logprob": deferral_curve.auroc(least, answered.near),
        "ece": deferral_curve.ece(right, answered.near),
        **deferral_curve.figures(curve),
        "interval95": deferral_curve.intervals(needs, truth),
        "lines": {name: deferral_curve.figures(each) for name, each in lines.items()},
        "way_to_self_knowledge": (curve.apgr - 0.5) / (known - 0.5),
        "aims": {name: _served(rule, answered, name) for name in ("auto", "auto-q95", "auto-w5")},
    }


def _served(rule: CalibratedRule, answered: Both, name: str) -> dict[str, float]:
    far, _ = _decided_far(rule, answered, rule.limit(parse_aim(name)))
    mixed = np.where(far, answered.far, answered.near)
    return {
        "far": float(far.mean()),
        "hybrid_accuracy": float(mixed.mean()),
        "near_accuracy": float(answered.near.mean()),
        "cloud_accuracy": float(answered.far.mean()),
        "wrong_of_kept": float(1.0 - answered.near[~far].mean()) if not far.all() else 0.0,
    }


def _decided_far(rule: CalibratedRule, answered: Both, limit: Limit) -> tuple[Floats, list[int]]:
    """Return which questions go far, and how many near tokens each was given before that."""
    far, spent = [], []
    for question, row in zip(answered.questions, answered.rows, strict=True):
        expected = rule.expect(question.question)
        gain, at_once = expected.gain or 0.0, rule.far_at_once_gain
        if at_once is not None and gain >= at_once and gain > limit.max_need:
            far.append(True)
            spent.append(0)
            continue
        stopped = _stopped(rule, question, row, limit)
        far.append(stopped is not None or limit.passed_by(judged(rule, question.question, row)))
        spent.append(len(row.near.tokens) if stopped is None else stopped)
    return np.array(far), spent


def _stopped(
    rule: CalibratedRule, question: Question, row: LabelledRow, limit: Limit
) -> int | None:
    expected = rule.expect(question.question)
    for count in range(1, len(row.near.tokens)):
        if rule.gives_up(row.near.signals(count), expected, limit):
            return count
    return None


def early_savings(rule: CalibratedRule, answered: Both) -> dict[str, float]:
    """Return what giving up early saves of the near tokens of those that go far, and its price.

    `auroc_kept` is of what lies above chance: an answer given up is ranked by its score then.
    """
    limit = rule.limit(parse_aim("auto"))
    far, spent = _decided_far(rule, answered, limit)
    whole = np.array([len(row.near.tokens) for row in answered.rows])
    final, cut, stopped_tokens, stopped_whole = [], [], 0, 0
    for question, row in zip(answered.questions, answered.rows, strict=True):
        final.append(judged(rule, question.question, row).score)
        stop = _stopped(rule, question, row, limit)
        partial = row.near.signals(stop), rule.expect(question.question)
        cut.append(final[-1] if stop is None else rule.judge(*partial).score)
        if stop is not None or limit.passed_by(judged(rule, question.question, row)):
            stopped_tokens += len(row.near.tokens) if stop is None else stop
            stopped_whole += len(row.near.tokens)
    above = deferral_curve.auroc(np.array(final), answered.near) - 0.5
    return {
        "near_tokens_spent_on_far": float(np.array(spent)[far].sum() / whole[far].sum()),
        "by_the_monitor_alone": stopped_tokens / max(1, stopped_whole),
        "auroc_kept": (deferral_curve.auroc(np.array(cut), answered.near) - 0.5) / above,
    }


def same_probe(
    questions: Sequence[Question], rows: Sequence[LabelledRow], answered: Both
) -> dict[str, object]:
    """Return AUROC on the test questions with and without a probe trained on all the others."""
    generator = np.random.default_rng(0)
    folds = generator.integers(0, 5, len(rows))
    states, right = [row.near.hidden_states() for row in rows], [row.near_right for row in rows]
    labels, said = np.array(right, dtype=np.float64), np.zeros(len(rows))
    for fold in range(5):
        inside = np.flatnonzero(folds != fold)
        part = fit_probe([states[at] for at in inside], [right[at] for at in inside])
        for place in np.flatnonzero(folds == fold):
            said[place] = part.score(list(states[place]))
    probe = fit_probe(states, right)
    ours = np.array([probe.score(list(row.near.hidden_states())) for row in answered.rows])
    signals = np.array([row.near.signals().features() for row in rows])
    tested = np.array([row.near.signals().features() for row in answered.rows])
    plain = fit_scorer(NAMES, signals, labels).many(tested)
    wider = fit_scorer((*NAMES, "probe"), np.column_stack([signals, said]), labels)
    fused = wider.many(np.column_stack([tested, ours]))
    near = answered.near

    def gain(at: Floats) -> float:
        return deferral_curve.auroc(fused[at], near[at]) - deferral_curve.auroc(plain[at], near[at])

    return {
        "weights": probe.num_weights,
        "auroc_signals": deferral_curve.auroc(plain, near),
        "auroc_probe": deferral_curve.auroc(ours, near),
        "auroc_both": deferral_curve.auroc(fused, near),
        "gain": deferral_curve.auroc(fused, near) - deferral_curve.auroc(plain, near),
        "gain_interval95": _spread(gain, answered.rows),
    }


def promises(
    rule: CalibratedRule, questions: Sequence[Question], rows: Sequence[LabelledRow]
) -> dict[str, dict[str, float]]:
    """Return how often P(wrong | kept) passes alpha, over draws of a calibration set.

    The held questions are the population: draws from it with replacement are independent, and
    what is truly wrong above a threshold can be counted.
    """
    held, generator = rule.policy.held, np.random.default_rng(0)
    scores, right = np.array(held.scores), np.array(held.near_right)
    found = {}
    for alpha in ALPHAS:
        broken, kept, none = 0, [], 0
        for _ in range(NUM_RESAMPLES):
            at = generator.integers(0, len(scores), NUM_DRAWN)
            threshold = certified(list(scores[at]), list(right[at]), alpha=alpha, delta=DELTA)
            if threshold is None:
                none += 1
                continue
            above = scores >= threshold
            broken += bool((~right[above]).mean() > alpha)
            kept.append(float(above.mean()))
        found[str(alpha)] = {
            "violations": broken / NUM_RESAMPLES,
            "allowed": DELTA,
            "kept_near": float(np.mean(kept)) if kept else 0.0,
            "no_promise": none / NUM_RESAMPLES,
        }
    return found


def budget_held() -> dict[str, object]:
    """Return how far any 500 requests stray from a budget, subject after subject of MMLU.

    The order is the hardest that the table allows: every change of subject is a shift. A threshold
    set once on the calibration rows is what it is compared with.
    """
    if not OUTCOMES.is_dir():
        return {"skipped": f"{OUTCOMES.name} is not here"}
    rows = read_outcomes(OUTCOMES / "mmlu_outcomes.jsonl")
    order = np.random.default_rng(0).permutation(len(rows))
    fit, rest = [rows[at] for at in order[:1500]], [rows[at] for at in order[1500:]]
    prior = Prior.fit(
        [row.prompt for row in fit],
        [row.weak_correct for row in fit],
        [row.strong_correct for row in fit],
    )
    seen = [prior.gain(row.prompt) for row in fit[:500]]
    rest.sort(key=lambda row: row.task)
    gains = [prior.gain(row.prompt) for row in rest]
    return {str(budget): _budget(budget, gains, seen) for budget in (0.1, 0.2, 0.4)}


def _budget(budget: float, gains: Sequence[float], seen: Sequence[float]) -> dict[str, float]:
    controller = BudgetController(budget)
    controller.seed(list(seen))
    sent = []
    for gain in gains:
        far = gain > controller.max_need()
        controller.note(gain, went_far=far)
        sent.append(float(far))
    fixed = np.array(gains) > np.quantile(seen, 1.0 - budget)
    return {
        "worst_error_any_500": _worst(np.array(sent), budget),
        "worst_error_any_500_fixed_threshold": _worst(fixed.astype(float), budget),
        "mean_gain_of_sent": float(np.array(gains)[np.array(sent) > 0].mean()),
        "mean_gain_of_all": float(np.mean(gains)),
        "requests": len(gains),
    }


def _worst(sent: Floats, budget: float) -> float:
    shares = np.convolve(sent, np.ones(WINDOW), "valid") / WINDOW
    return float(np.abs(shares - budget).max())


def decision_cost() -> dict[str, object]:
    """Return what the prior and the monitor of the shipped policy cost, beside a decode step."""
    rule, texts = load_calibrated(EDGE_POLICY), [f"What is {n} + {7 * n}?" for n in range(600)]
    spent = []
    for text in texts:
        began = time.perf_counter()
        rule.expect(text)
        spent.append((time.perf_counter() - began) * 1e3)
    step_us = asyncio.run(_decode_step_us())
    watched_us = _monitor_us(rule)
    return {
        "prior_ms": {f"p{at}": float(np.quantile(spent, at / 100)) for at in (50, 95, 99)},
        "monitor_us_per_token": watched_us,
        "decode_step_us_embedded": step_us,
        "monitor_share_of_embedded_step": watched_us / step_us,
        "monitor_share_of_a_20_ms_step": watched_us / 20_000,
    }


def _monitor_us(rule: CalibratedRule) -> float:
    """Return the median over answers of 24 tokens, microseconds a token."""
    generator, found = np.random.default_rng(0), []
    for number in range(300):
        monitor = Monitor(rule, rule.limit(parse_aim("auto")), rule.expect(f"What is {number}?"))
        doubt = generator.gamma(1.0, 0.01, (24, 3))
        deltas = [
            Delta(text="a ", index=at, confidence=(Confidence(-float(a), float(b), 5.0),))
            for at, (a, b, _) in enumerate(doubt)
        ]
        began = time.perf_counter()
        for delta in deltas:
            monitor.see(delta)
        found.append((time.perf_counter() - began) * 1e6 / len(deltas))
    return float(np.median(found))


async def _decode_step_us() -> float:
    found = []
    async with aclosing(LlamaEngine(EDGE_MODEL, options=LlamaOptions(num_threads=1))) as engine:
        for _ in range(30):
            message = Message(role="user", content="What can you do?")
            async for item in engine.generate(Request(messages=(message,))):
                if isinstance(item, Finish) and item.usage.completion_tokens > 1:
                    found.append(item.usage.decode_s * 1e6 / item.usage.completion_tokens)
    return float(np.median(found))


def _judged(rule: CalibratedRule, answered: Both) -> list[Estimate]:
    pairs = zip(answered.questions, answered.rows, strict=True)
    return [judged(rule, question.question, row) for question, row in pairs]


def _spread(figure: Callable[[Floats], float], rows: Sequence[object]) -> list[float]:
    generator = np.random.default_rng(0)
    drawn = [figure(generator.integers(0, len(rows), len(rows))) for _ in range(1000)]
    return [float(each) for each in np.quantile(drawn, [0.025, 0.975])]
