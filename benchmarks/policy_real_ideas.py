"""Ideas tried on the tables of benchmarks/policy_real.py: draws, second looks, wording."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.policy_real_fits import FAR_RIGHT, MIN_GAIN, Picks, Table, scores_left_out
from benchmarks.policy_real_parts import everyday, pairs_within_sets
from offload.policy.fitting import deferral_curve
from offload.policy.fitting.answer_table import CODE, LETTER, NAME, NUMBER, AnswerRow
from offload.policy.serving.features import Floats
from offload.policy.serving.logistic import sigmoid

RESAMPLES = 400
BAND = (0.2, 0.6)  # P(near right) by the rule where a second look might pay
_CONTENT = frozenset((NUMBER, LETTER, NAME, CODE))  # what an answer says; the rest is how it is put
_ALTERNATIVES = ("other_content", "other_wording")
Ints = npt.NDArray[np.int64]


def sampled(
    tables: Mapping[str, Table], said: Mapping[str, Floats], folder: Path
) -> dict[str, object]:
    """Return how well the rule judges answers drawn at temperature 0.7, top_p 0.9, left out.

    Beside it stand the greedy answers to the same questions, and the rule fitted to both kinds of
    answers of the other models.
    """
    drawn = {
        name: Table.read(path) for name in tables if (path := folder / f"{name}.jsonl.gz").exists()
    }
    found: dict[str, object] = {}
    for name, table in drawn.items():
        others = {f"{other}, drawn": each for other, each in drawn.items() if other != name}
        greedy = tables[name]
        here = np.isin([row.id for row in greedy.rows], [row.id for row in table.rows])
        both = scores_left_out({**tables, **others, name: table}, name)
        scores = scores_left_out({**tables, name: table}, name)
        found[name] = {
            "drawn": _told(scores, table),
            "everyday, drawn": everyday({name: table}, {name: scores}).get(name),
            "drawn, rule fitted to both kinds": _told(both, table),
            "greedy, same questions": _told(said[name][here], greedy.kept(here)),
        }
    return found


def _told(scores: Floats, table: Table) -> dict[str, object]:
    chances, right = sigmoid(scores), table.right
    return {
        "answers": len(right),
        "right": float(right.mean()),
        "auroc": deferral_curve.auroc(scores, right),
        "auroc_interval95": _spread(
            len(right), lambda at: deferral_curve.auroc(scores[at], right[at])
        ),
        "pairs_within_sets": pairs_within_sets(scores, table),
        "ece": deferral_curve.ece(chances, right),
        "ece_interval95": _spread(
            len(right), lambda at: deferral_curve.ece(chances[at], right[at])
        ),
    }


def second_look(
    tables: Mapping[str, Table], said: Mapping[str, Floats], folder: Path
) -> dict[str, object]:
    """Return what one or two further answers, drawn, add to the rule by agreeing with the first."""
    found: dict[str, object] = {}
    for name, table in tables.items():
        paths = [folder / f"{name}.jsonl.gz", folder / f"{name}.again.jsonl.gz"]
        looks = [Table.read(path) for path in paths if path.exists()]
        for count in range(1, len(looks) + 1):
            found[f"{name}, {count} more"] = _looked(table, said[name], looks[:count])
    return found


def _looked(table: Table, scores: Floats, looks: list[Table]) -> dict[str, object]:
    rows = [{row.id: row for row in look.rows} for look in looks]
    here = np.array([bool(r.given) and all(r.id in look for look in rows) for r in table.rows])
    first, rule = table.kept(here), scores[here]
    agree = np.array([_agreeing(row, rows) for row in first.rows])
    right, both = first.right, rule + agree
    band = (sigmoid(rule) > BAND[0]) & (sigmoid(rule) < BAND[1])
    spent = sum(len(look[row.id].tokens) for row in first.rows for look in rows)

    def gained(at: Ints) -> float:
        return deferral_curve.auroc(both[at], right[at]) - deferral_curve.auroc(rule[at], right[at])

    return {
        "answers": int(here.sum()),
        "tokens_beside_the_first": spent / sum(len(row.tokens) for row in first.rows),
        "auroc": {
            "rule": deferral_curve.auroc(rule, right),
            "agreement": deferral_curve.auroc(agree, right),
            "both": deferral_curve.auroc(both, right),
        },
        "gain_interval95": _spread(len(right), gained),
        "pairs_within_sets": {
            "rule": pairs_within_sets(rule, first),
            "agreement": pairs_within_sets(agree, first),
            "both": pairs_within_sets(both, first),
        },
        "in_band": {
            "share": float(band.mean()),
            "rule": _auroc_in(rule, right, band),
            "agreement": _auroc_in(agree, right, band),
            "both": _auroc_in(both, right, band),
        },
    }


def _agreeing(first: AnswerRow, looks: list[dict[str, AnswerRow]]) -> float:
    return float(sum(look[first.id].given == first.given for look in looks))


def _auroc_in(scores: Floats, right: Floats, picks: Picks) -> float | None:
    inside = right[picks]
    if not len(inside) or inside.min() == inside.max():
        return None
    return deferral_curve.auroc(scores[picks], inside)


def given_up_early(
    tables: Mapping[str, Table], said: Mapping[str, Floats]
) -> dict[str, dict[str, float]]:
    """Return how many near tokens are spent on what goes far, if answers are given up unfinished.

    At some lengths a logistic model of the first tokens and the prompt, fitted to the other models,
    says whether the rule will ask far; it gives up where in 1% of what those models kept it would.
    """
    far = {name: FAR_RIGHT - sigmoid(said[name]) > MIN_GAIN for name in tables}
    found = {}
    for name, table in tables.items():
        others = [(each, far[other]) for other, each in tables.items() if other != name]
        ends = np.array([len(row.tokens) for row in table.rows], dtype=np.float64)
        stops = ends.copy()
        for length in _LENGTHS:
            given_up = _given_up(others, table, length)
            stops = np.where(given_up & (stops > length), length, stops)
        is_open = table.sets == "everyday/open"
        for kind, here in (("", np.ones(len(ends), dtype=bool)), (", open answers", is_open)):
            goes, kept = here & far[name], here & ~far[name]
            if goes.any() and kept.any():
                found[f"{name}{kind}"] = {
                    "go_far": float(goes.sum()),
                    "spent_on_them": float(stops[goes].sum() / ends[goes].sum()),
                    "given_up_of_those_kept": float((stops[kept] < ends[kept]).mean()),
                }
    return found


_LENGTHS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128)


def _given_up(others: list[tuple[Table, Picks]], table: Table, length: int) -> Picks:
    """Say which answers of a table, longer than `length`, the others' model would give up there."""
    from sklearn.linear_model import LogisticRegression

    rows = np.vstack([_begun(each, length) for each, _ in others])
    goes = np.concatenate([far[_longer(each, length)] for each, far in others])
    longer, said = _longer(table, length), np.zeros(len(table.rows), dtype=bool)
    if not longer.any() or len(goes) < 20 or goes.min() == goes.max():
        return said
    centre, scale = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-6)
    model = LogisticRegression(C=0.1, max_iter=1000).fit((rows - centre) / scale, goes)
    bound = np.quantile(model.decision_function((rows - centre) / scale)[~goes], 0.99)
    said[longer] = model.decision_function((_begun(table, length) - centre) / scale) > bound
    return said


def _longer(table: Table, length: int) -> Picks:
    return np.array([len(row.tokens) > length for row in table.rows])


def _begun(table: Table, length: int) -> Floats:
    """Return what the first tokens and the prompt tell, of answers that are longer."""
    found = []
    for at in np.flatnonzero(_longer(table, length)):
        tokens = np.array(
            [(e.logprob, e.entropy, e.margin) for e in table.rows[at].tokens[:length]]
        )
        logprobs, entropies = tokens[:, 0], tokens[:, 1]
        signals = (logprobs.mean(), logprobs.min(), entropies.mean(), entropies.max())
        found.append([*signals, tokens[:, 2].mean(), *table.prompts[at]])
    return np.array(found).reshape(-1, 5 + table.prompts.shape[1])


def wording(tables: Mapping[str, Table], said: Mapping[str, Floats]) -> dict[str, object]:
    """Return what doubt about content tells, what doubt about wording does, and both in the rule.

    Content is numbers, names, letters and code. A token's doubt counts the probability of the
    likeliest other tokens of its own kind (content or wording).
    """
    columns = {name: np.array([_doubts(row) for row in t.rows]) for name, t in tables.items()}
    wider = {
        name: Table(t.rows, np.hstack([t.features, columns[name]]), t.prompts, t.right, t.sets)
        for name, t in tables.items()
    }
    return {
        name: {
            "alone, pairs_within_sets": {
                each: pairs_within_sets(-columns[name][:, at], table)
                for at, each in enumerate(_ALTERNATIVES)
            },
            "rule": _told(said[name], table),
            "rule with both": _told(scores_left_out(wider, name, _ALTERNATIVES), table),
        }
        for name, table in tables.items()
    }


def _doubts(row: AnswerRow) -> tuple[float, float]:
    """Return the mean doubt of tokens of content and of wording, by alternatives of that kind."""
    found: dict[bool, list[float]] = {True: [], False: []}
    for kind, likely, kinds in zip(row.kinds, row.likely, row.likely_kinds, strict=False):
        is_content = kind in _CONTENT
        others = zip(likely[1:], kinds[1:], strict=False)
        same = sum(np.exp(logprob) for logprob, each in others if (each in _CONTENT) == is_content)
        found[is_content].append(float(same))
    content, put = (float(np.mean(each)) if each else 0.0 for each in (found[True], found[False]))
    return content, put


def _spread(total: int, measure: Callable[[Ints], float]) -> list[float]:
    generator = np.random.default_rng(0)
    drawn = [measure(generator.integers(0, total, total)) for _ in range(RESAMPLES)]
    return [round(float(each), 4) for each in np.quantile(drawn, (0.025, 0.975))]
