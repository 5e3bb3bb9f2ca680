"""Working together, replayed on tables of real answers: words sent early, and far models that read.

    python benchmarks/together.py                                 the replays, into together.json
    python benchmarks/together.py --near MODEL.gguf [--prompts N] and the seconds to a first word

Tables (benchmarks/together/): `running.*` has what the rule of the first day says of an unfinished
answer, fitted to other models and other sets; `read.*` what a far model told of each token of the
near answers when it read them in one prefill (logprob, rank, entropy), and of its one-word verdict.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.policy_real_fits import FAR_RIGHT, MIN_GAIN, Table, scores_left_out  # noqa: E402
from benchmarks.policy_real_parts import pairs_within_sets  # noqa: E402
from offload.policy.fitting.answer_scorer import fit_signed  # noqa: E402
from offload.policy.serving.features import Floats  # noqa: E402
from offload.policy.serving.logistic import sigmoid  # noqa: E402

HERE = ROOT / "benchmarks"
TABLES, ANSWERS = HERE / "together", HERE / "policy_real"
NEAR, FAR = ("Qwen2.5-Coder-0.5B", "SmolLM2-135M"), "Qwen2.5-Coder-1.5B"
LOOKS = (2, 4, 8, 16, 32, 64, 128)  # as offload/hybrid/acceptance.py looks
SHOWN = ("rule of the first day", "near mean_logprob", "far mean_logprob", "far verdict")
SHARES = (0.1, 0.2, 0.3, 0.5)
RESAMPLES = 400


def rows_of(name: str) -> list[dict[str, Any]]:
    """Return the rows of a table of this benchmark."""
    with gzip.open(TABLES / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def first_words(name: str, far: dict[str, float]) -> dict[str, Any]:
    """Replay what is sent early, on tasks (with numbers and options) and on everyday prompts.

    An answer that is accepted and doubted afterwards is counted as standing, so accuracy is a lower
    bound: a far model that goes on from the accepted part can only mend it. Everyday prompts have
    no far table; there a far answer counts as right as often as published strong models' are.
    """
    rows = rows_of(f"running.{name}")
    found = {}
    for kind in ("tasks", "everyday"):
        here = [row for row in rows if row["set"].startswith("everyday") == (kind == "everyday")]
        here = [row for row in here if kind == "everyday" or row["id"] in far]
        right = np.array([float(row["right"]) for row in here])
        strong = np.array([far.get(row["id"], FAR_RIGHT) for row in here])
        if kind == "everyday":
            strong[:] = FAR_RIGHT
        need = np.array([FAR_RIGHT - float(sigmoid(row["scores"][-1][1])) for row in here])
        length = np.array([row["tokens"] for row in here])
        at = np.array([_first_sent(row) for row in here])
        doubted, early = need > MIN_GAIN, at < length
        goes, stays = doubted & ~early, ~(doubted & ~early)
        same = np.zeros(len(here), dtype=bool)
        same[np.argsort(-need, kind="stable")[: int(goes.sum())]] = True
        found[kind] = {
            "questions": len(here),
            "asked_far_today": float(doubted.mean()),
            "sent_early": float(early.mean()),
            "sent_early_and_doubted_later": float((early & doubted).mean()),
            "of_those_that_stay_sent_early": float(early[stays].mean()),
            "of_those_that_stay_first_word_at_token": float(np.median(at[stays])),
            "of_those_that_stay_tokens_of_the_answer": float(np.median(length[stays])),
            "accuracy_at_least": float(np.where(goes, strong, right).mean()),
            "accuracy_today_at_the_same_share": float(np.where(same, strong, right).mean()),
            "asked_far_at_least": float(goes.mean()),
        }
    return found


def _first_sent(row: dict[str, Any]) -> int:
    """Return the token at which the first words of an answer are sent, or its last."""
    for at, score in row["scores"]:
        keeps = FAR_RIGHT - float(sigmoid(score)) <= MIN_GAIN
        if row["plain"] and at in LOOKS and at < row["tokens"] and keeps:
            return int(at)
    return int(row["tokens"])


def check(name: str, far: dict[str, float]) -> dict[str, Any]:
    """Return what a far model's reading tells of near answers, beside all signals of their own."""
    read = {row["id"]: row for row in rows_of(f"read.{name}.by.1.5B")}
    tables = {each: Table.read(ANSWERS / f"{each}.jsonl.gz") for each in (*NEAR, FAR)}
    picks = np.array([row.id in read for row in tables[name].rows])
    table, rule = tables[name].kept(picks), scores_left_out(tables, name)[picks]
    told = [read[row.id] for row in table.rows]
    tokens = [np.array(each["tokens"]) for each in told]
    mean = np.array([each[:, 0].mean() for each in tokens])
    signals = {
        "rule of the first day": rule,
        **{f"near {key}": value for key, value in table.signals().items()},
        "far mean_logprob": mean,
        "far least": np.array([each[:, 0].min() for each in tokens]),
        "far share of likeliest": np.array([(each[:, 1] == 0).mean() for each in tokens]),
        "far logprob less than expected": np.array(
            [(each[:, 0] + each[:, 2]).mean() for each in tokens]
        ),
        "far verdict": np.array([each["yes"] - each["no"] for each in told]),
    }
    features = np.stack([rule, np.log(np.maximum(-mean, 1e-3))], axis=1)
    signals["check (rule and far mean, five folds)"] = _folded(features, table.right)
    known = np.array([row.id in far for row in table.rows])
    strong = np.array([far.get(row.id, 0.0) for row in table.rows])
    lengths = np.array([each["prompt_tokens"] for each in told])
    fitted = fit_signed(("near", "nats"), features, table.right, np.array([1.0, -1.0]), penalty=3.0)
    return {
        "questions": len(table.rows),
        "near_right": float(table.right.mean()),
        "auroc_of_pairs_within_sets": {
            key: {
                "value": pairs_within_sets(value, table),
                "interval90": _interval(value, table),
            }
            for key, value in signals.items()
        },
        "difference_to_the_best_near_signal_interval90": _difference(signals, table),
        "hybrid": {
            key: _hybrid(value[known], table.right[known], strong[known])
            for key, value in signals.items()
            if key
            in ("rule of the first day", "near mean_logprob", "far mean_logprob", "far verdict")
            or key.startswith("check")
        },
        "by_the_limit": _by_limit(signals, table, known, strong),
        "accuracy_far": float(strong[known].mean()),
        "far_tokens_read_per_check": float(np.median(lengths)),
        "weights": {"bias": fitted.bias, "near": fitted.weights[0], "nats": fitted.weights[1]},
    }


def _folded(features: Floats, right: Floats) -> Floats:
    """Return scores of a fit to the other four fifths."""
    folds, scores = np.random.default_rng(0).integers(0, 5, len(right)), np.zeros(len(right))
    for fold in range(5):
        rest = folds != fold
        fit = fit_signed(
            ("near", "nats"), features[rest], right[rest], np.array([1.0, -1.0]), penalty=3.0
        )
        scores[~rest] = fit.many(features[~rest])
    return scores


def _drawn(scores: list[Floats], table: Table) -> list[list[float]]:
    generator, found = np.random.default_rng(0), []
    everything = np.arange(len(table.right))
    for _ in range(RESAMPLES):
        at = generator.choice(everything, len(everything))
        part = Table(
            [table.rows[i] for i in at],
            table.features[at],
            table.prompts[at],
            table.right[at],
            table.sets[at],
        )
        found.append([pairs_within_sets(each[at], part) for each in scores])
    return found


def _interval(scores: Floats, table: Table) -> list[float]:
    drawn = [each[0] for each in _drawn([scores], table)]
    return [float(each) for each in np.quantile(drawn, (0.05, 0.95))]


def _difference(signals: dict[str, Floats], table: Table) -> dict[str, list[float]]:
    """Return how much better the far signals are than the near one that is best here."""
    near = {k: v for k, v in signals.items() if k.startswith(("near", "rule"))}
    best = max(near.values(), key=lambda each: pairs_within_sets(each, table))
    found = {}
    for key in ("far mean_logprob", "check (rule and far mean, five folds)"):
        drawn = [a - b for a, b in _drawn([signals[key], best], table)]
        found[key] = [float(each) for each in np.quantile(drawn, (0.05, 0.95))]
    return found


def _hybrid(scores: Floats, right: Floats, strong: Floats) -> dict[str, float]:
    """Return the accuracy where a share of the answers, the worst first, is answered far."""
    order = np.argsort(scores, kind="stable")
    found = {}
    for share in SHARES:
        goes = np.zeros(len(right), dtype=bool)
        goes[order[: round(share * len(right))]] = True
        found[f"{share:.0%}"] = float(np.where(goes, strong, right).mean())
    return found


def _by_limit(
    signals: dict[str, Floats], table: Table, known: Any, strong: Floats
) -> dict[str, dict[str, float]]:
    """Return what plain auto makes of it: without a check, and with one of what is doubted."""
    doubted = FAR_RIGHT - sigmoid(signals["rule of the first day"]) > MIN_GAIN
    fell = FAR_RIGHT - sigmoid(signals["check (rule and far mean, five folds)"]) > MIN_GAIN
    found = {}
    for key, goes in (("ask", doubted), ("check, then ask", doubted & fell)):
        accuracy = np.where(goes, strong, table.right)[known].mean()
        found[key] = {"written_far": float(goes[known].mean()), "accuracy": float(accuracy)}
    return found


def main() -> None:
    """Replay, measure where a model is given, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--near", type=Path, help="a GGUF file; its first words are timed")
    parser.add_argument("--prompts", type=int, default=20)
    options = parser.parse_args()
    far = {row.id: float(row.right) for row in Table.read(ANSWERS / f"{FAR}.jsonl.gz").rows}
    path = HERE / "together.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    figures: dict[str, Any] = {
        "first_words": {name: first_words(name, far) for name in NEAR},
        "check": {NEAR[0]: check(NEAR[0], far)},
        "seconds": kept.get("seconds"),
    }
    if options.near is not None:
        from benchmarks.together_seconds import first_word_seconds

        figures["seconds"] = first_word_seconds(options.near, options.prompts)
    text = json.dumps(figures, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
