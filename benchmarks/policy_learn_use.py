"""Learning in use, replayed on tables: requests come one by one, and 20% of them are asked far.

The replay fits as nearfar does (offload/policy/learning/refit.py), after every twenty pairs, from
weights without the near model; which requests go far is decided by the weights of that moment, and
some sure ones are drawn at random. Part of benchmarks/policy_learn.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from benchmarks.policy_real_fits import Table, fitted
from benchmarks.policy_real_parts import pairs_within_sets
from offload.policy.fitting import deferral_curve
from offload.policy.fitting.answer_scorer import fit_signed
from offload.policy.learning.pair_store import LearnedPair
from offload.policy.learning.refit import EVERY, AgreementChange, noticed_change, refit
from offload.policy.serving.answer_features import NAMES, SIGNS
from offload.policy.serving.features import Floats, Ints
from offload.policy.serving.first_day import FirstDayFile, first_day
from offload.policy.serving.logistic import Scorer, chance, sigmoid

NUM_REQUESTS, SHARE_FAR, NUM_LABELS, NUM_SPLITS = 300, 0.2, 200, 20
EXPLORED = (0.0, 0.05, 0.1)
_SIGNS = np.array(list(SIGNS.values()), dtype=np.float64)
_SINCE = 100  # requests whose scores the budget looks back on


@dataclass(frozen=True)
class Both:
    """Near answers whose far answer can be compared, and whether the two say the same."""

    table: Table
    same: Floats
    far_features: Floats

    @classmethod
    def of(cls, near: Table, far: Table) -> Both:
        """Take the questions that both answered, the far one with a number, a letter or a word."""
        places = {row.id: place for place, row in enumerate(far.rows) if row.given}
        table = near.kept(np.array([row.id in places for row in near.rows]))
        at = np.array([places[row.id] for row in table.rows])
        same = [
            float(row.given == far.rows[place].given)
            for row, place in zip(table.rows, at, strict=True)
        ]
        return cls(table, np.array(same), far.features[at])


def learnt_in_use(
    tables: Mapping[str, Table], near: str, far: str, *, without: tuple[str, ...] = ()
) -> dict[str, object]:
    """Return the AUROC on the rest by share explored, and the share of the gain of 200 labels.

    without: sets that the weights to begin with were not fitted to, nor to the near model.
    """
    both = Both.of(tables[near], tables[far])
    start = _start(tables, (near,), without)
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    numbers: dict[str, list[int]] = defaultdict(list)
    for seed in range(NUM_SPLITS):
        order = np.random.default_rng(seed).permutation(len(both.same))
        pool, held = order[:NUM_LABELS], np.sort(order[NUM_LABELS:])
        rest = both.table.kept(np.isin(np.arange(len(order)), held))

        def note(way: str, scorer: Scorer, rest: Table = rest) -> None:
            scores = scorer.many(rest.features)
            ece = deferral_curve.ece(sigmoid(scores), rest.right)
            auroc = deferral_curve.auroc(scores, rest.right)
            found[way].append((auroc, pairs_within_sets(scores, rest), ece))

        note("to begin with", start.near)
        note("200 labels", _fit(both.table.features[pool], both.table.right[pool], start.near))
        for explored in EXPLORED:
            learnt, num_pairs = _replayed(both, pool, start, explored, seed)
            note(f"in use, {explored:.0%} drawn", learnt.near)
            numbers[f"{explored:.0%} drawn"].append(num_pairs)
    means = {way: float(np.mean([each[0] for each in kept])) for way, kept in found.items()}
    gain = means["200 labels"] - means["to begin with"]
    return {
        "pairs": {way: float(np.mean(kept)) for way, kept in numbers.items()},
        **{
            name: {way: _told([each[at] for each in kept]) for way, kept in found.items()}
            for at, name in enumerate(("auroc", "pairs_within_sets", "ece"))
        },
        "gain_of_labels": gain,
        # Of a gain that is none, no share can be had.
        "share_of_gain": {
            way: (mean - means["to begin with"]) / gain
            for way, mean in means.items()
            if way.startswith("in use") and gain > 0.01
        },
    }


def _start(
    tables: Mapping[str, Table], models: tuple[str, ...], without: tuple[str, ...] = ()
) -> FirstDayFile:
    others = [
        table.kept(~np.isin(table.sets, without)) for n, table in tables.items() if n not in models
    ]
    return msgspec.structs.replace(first_day().file, near=fitted(others))


def _fit(features: Floats, right: Floats, start: Scorer) -> Scorer:
    """Fit to true labels, as strongly drawn to the weights to begin with as in use."""
    prior = np.array(start.weights)
    return fit_signed(NAMES, features, right, _SIGNS, penalty=100.0, prior=prior)


def _replayed(
    both: Both, pool: Ints, start: FirstDayFile, explored: float, seed: int
) -> tuple[FirstDayFile, int]:
    """Return the weights after NUM_REQUESTS requests, and from how many pairs they came."""
    drawn = np.random.default_rng(1000 + seed)
    rule, pairs, fitted_to, seen = start, list[LearnedPair](), 0, list[float]()
    share = (SHARE_FAR - explored) / (1.0 - explored)  # with what is drawn, SHARE_FAR in all
    for number in range(NUM_REQUESTS):
        at = int(drawn.choice(pool))
        score = rule.near(tuple(both.table.features[at]))
        seen.append(score)
        unsure = score <= np.quantile(seen[-_SINCE:], share)
        if not unsure and drawn.random() >= explored:
            continue
        propensity = 1.0 if unsure else explored
        pairs.append(pair_of(both, at, number, start.near, rule.near, propensity))
        if len(pairs) - fitted_to >= EVERY and (found := _refit(pairs, start)) is not None:
            rule, fitted_to = found, len(pairs)
    return rule, len(pairs)


def pair_of(
    both: Both, at: int, number: int, judge: Scorer, rule: Scorer, propensity: float = 1.0
) -> LearnedPair:
    """Return one row of both tables as nearfar would keep it."""
    features = tuple(both.table.features[at])
    return LearnedPair(
        at=float(number),
        same=bool(both.same[at]),
        features=features,
        prompt=tuple(both.table.prompts[at]),
        propensity=propensity,
        near=chance(judge(features)),
        far=chance(judge(tuple(both.far_features[at]))),
        expected=chance(rule(features)),
    )


def _refit(pairs: list[LearnedPair], start: FirstDayFile) -> FirstDayFile | None:
    found = refit(pairs, start, near_model="", far_model="", now=0.0)
    return None if found is None else found.rule


def worse_far_noticed(tables: Mapping[str, Table]) -> dict[str, dict[str, float]]:
    """Return for every two models how often the far one is called worse after so many pairs.

    Both are judged by weights that know neither.
    """
    found = {}
    for near in tables:
        for far in tables:
            if near == far:
                continue
            both, start = Both.of(tables[near], tables[far]), _start(tables, (near, far))
            told = {
                "near_right": float(both.table.right.mean()),
                "far_right": float(_far_right(both, tables[far])),
            }
            for count in (60, 120):
                told[f"called_worse_after_{count}"] = _called_worse(both, start, count)
            found[f"{near} -> {far}"] = told
    return found


def _far_right(both: Both, far: Table) -> float:
    right = {row.id: row.right for row in far.rows}
    return float(np.mean([right[row.id] for row in both.table.rows]))


def _called_worse(both: Both, start: FirstDayFile, count: int) -> float:
    said = []
    for seed in range(NUM_SPLITS):
        picked = np.random.default_rng(seed).permutation(len(both.same))[:count]
        pairs = [pair_of(both, int(at), n, start.near, start.near) for n, at in enumerate(picked)]
        found = refit(pairs, start, near_model="", far_model="", now=0.0)
        said.append(found is not None and found.far_is_worse)
    return float(np.mean(said))


def change_noticed(
    tables: Mapping[str, Table], near: str, far: str, other: str
) -> dict[str, float]:
    """Return how often a change of agreement is said where another far model goes by the same name.

    100 pairs with one far model, then 100 with the other (or with the same one again).
    """
    first, second = (Both.of(tables[near], tables[name]) for name in (far, other))
    start, said = _start(tables, (near,)), {"changed": list[bool](), "unchanged": list[bool]()}
    for seed in range(NUM_SPLITS):
        for way, then in (("changed", second), ("unchanged", first)):
            drawn = np.random.default_rng(seed)
            pairs = [
                pair_of(first, int(at), n, start.near, start.near)
                for n, at in enumerate(drawn.choice(len(first.same), 100))
            ]
            rule = _refit(pairs, start) or start
            change = AgreementChange(noticed_at=100.0)
            for number, at in enumerate(drawn.choice(len(then.same), 100), 101):
                pairs.append(pair_of(then, int(at), number, start.near, rule.near))
                if number % EVERY == 0:
                    change = noticed_change(pairs, change)
                    rule = _refit(pairs, start) or rule
            said[way].append(change.began_at > 0.0)
    return {way: float(np.mean(each)) for way, each in said.items()}


def _told(values: list[float]) -> dict[str, float]:
    low, high = np.quantile(values, (0.1, 0.9))
    return {
        "mean": round(float(np.mean(values)), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }
