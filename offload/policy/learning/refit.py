"""Refit of the first day's rule to answer pairs, whose labels are the far model's answers.

Whether the near answer says what the far one says is taken for whether it is right: a noisy label,
whose noise docs/policy.md states. Pairs are weighted by how unlikely it was to see them (inverse
propensities, Horvitz and Thompson 1952) and less the older they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from backbone.errors import cause
from backbone.file_reading import MAX_TEXT_BYTES, read_bytes
from backbone.files import atomic_write
from offload.errors import SettingsError
from offload.messages import BaseStruct
from offload.policy.fitting.answer_scorer import fit_signed
from offload.policy.learning.pair_store import LearnedPair
from offload.policy.serving.answer_features import NAMES, SIGNS
from offload.policy.serving.features import Floats
from offload.policy.serving.first_day import FirstDayFile, FirstDayRule
from offload.policy.serving.logistic import Scorer, sigmoid

VERSION = 1
MIN_PAIRS, MIN_EACH = 40, 1  # that a fit needs, and of either label
EVERY = 20  # new pairs make a new fit
_PENALTY = 100.0  # draws to the shipped weights; chosen on the 0.5B's table (policy_learn.py)
_HALF_LIFE = 400.0  # pairs after which one counts half
_BEFORE_A_CHANGE = 0.1  # what a pair of a model that has changed since still counts
_MOST_WEIGHT = 10.0
_WINDOW = 100  # newest pairs that are looked at for a change of agreement
_CHANGED = 3.0  # standard errors by which agreement must differ from what was expected
_WORSE = 3.0  # standard errors by which the far model must look worse
_SIGNS = np.array(list(SIGNS.values()), dtype=np.float64)


class AgreementChange(BaseStruct, frozen=True, kw_only=True):
    """Change of agreement: since when, and when it was noticed (seconds since the epoch, 0: never).

    share: of the pairs then that said the same. expected: the share that was expected of them.
    """

    began_at: float = 0.0
    noticed_at: float = 0.0
    share: float = 0.0
    expected: float = 0.0


class LearntPolicy(BaseStruct, frozen=True, kw_only=True):
    """Policy learnt in use: the weights, and what they were learnt from.

    fitted_at, newest_at: seconds since the epoch, of the fit and of the newest pair. change: since
    when the models agree otherwise than before. differ: pairs whose answers differ and whose far
    answer told its log-probabilities; near_right and far_right how likely the shipped rule holds
    the two to be right there.
    """

    version: int
    near_model: str
    far_model: str
    fitted_at: float
    newest_at: float
    change: AgreementChange
    num_pairs: int
    num_same: int
    differ: int
    near_right: float
    far_right: float
    far_is_worse: bool
    rule: FirstDayFile


def refit(
    pairs: Sequence[LearnedPair],
    start: FirstDayFile,
    *,
    near_model: str,
    far_model: str,
    now: float,
    change: AgreementChange = AgreementChange(),  # noqa: B008 - it is frozen
) -> LearntPolicy | None:
    """Fit the near scorer to pairs, the oldest first; None where they are too few or all alike."""
    same = np.array([pair.same for pair in pairs], dtype=np.float64)
    if len(pairs) < MIN_PAIRS or min(same.sum(), len(same) - same.sum()) < MIN_EACH:
        return None
    near = fit_signed(
        NAMES,
        np.array([pair.features for pair in pairs]),
        same,
        _SIGNS,
        penalty=_PENALTY,
        weights=_weights(pairs, change.began_at),
        prior=np.array(start.near.weights),
    )
    differ, near_right, far_right, is_worse = _compared(pairs, change.began_at)
    rule = msgspec.structs.replace(start, near=near)
    if is_worse:
        rule = _far_as_the_near(rule, pairs, near_right)
    return LearntPolicy(
        version=VERSION,
        near_model=near_model,
        far_model=far_model,
        fitted_at=now,
        newest_at=max(pair.at for pair in pairs),
        change=change,
        num_pairs=len(pairs),
        num_same=int(same.sum()),
        differ=differ,
        near_right=near_right,
        far_right=far_right,
        far_is_worse=is_worse,
        rule=rule,
    )


def _weights(pairs: Sequence[LearnedPair], changed_at: float) -> Floats:
    age = np.arange(len(pairs))[::-1]
    weights = np.array([min(_MOST_WEIGHT, 1.0 / max(pair.propensity, 1e-6)) for pair in pairs])
    weights *= 0.5 ** (age / _HALF_LIFE)
    weights[[pair.at <= changed_at for pair in pairs]] *= _BEFORE_A_CHANGE
    return np.asarray(weights * len(pairs) / weights.sum(), dtype=np.float64)


def _compared(pairs: Sequence[LearnedPair], changed_at: float) -> tuple[int, float, float, bool]:
    """Return how the shipped rule holds both sides where their answers differ.

    It was made to mean the same on every model, so it may judge the far answer like the near one.
    """
    both = np.array(
        [
            (pair.near, pair.far)
            for pair in pairs
            if not pair.same and pair.near is not None and pair.far is not None
            if pair.at > changed_at
        ]
    ).reshape(-1, 2)
    if not len(both):
        return 0, 0.0, 0.0, False
    gain = both[:, 1] - both[:, 0]
    error = float(gain.std()) / math.sqrt(len(gain)) + 1e-9
    is_worse = len(gain) >= MIN_PAIRS // 2 and float(gain.mean()) < -_WORSE * error
    near, far = (float(each) for each in both.mean(axis=0))
    return len(gain), near, far, is_worse


def _far_as_the_near(
    rule: FirstDayFile, pairs: Sequence[LearnedPair], near_right: float
) -> FirstDayFile:
    """Return the rule with a P(far right) that is on average no higher than the near one."""
    prompts = np.array([pair.prompt for pair in pairs])
    now = float(sigmoid(rule.far_by_prompt.many(prompts)).mean())
    far_by_prompt = raised(rule.far_by_prompt, prompts, min(now, near_right))
    return msgspec.structs.replace(rule, far_by_prompt=far_by_prompt)


def raised(scorer: Scorer, rows: Floats, mean: float) -> Scorer:
    """Move a scorer's bias so that its probabilities have this mean over rows [rows, features]."""
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2.0
        if float(sigmoid(scorer.many(rows) + middle).mean()) < mean:
            low = middle
        else:
            high = middle
    return msgspec.structs.replace(scorer, bias=scorer.bias + low)


def noticed_change(pairs: Sequence[LearnedPair], last: AgreementChange) -> AgreementChange:
    """Return the change of agreement that the newest pairs show, the last one where they do not.

    They agree more or less often than the policy of their time expected of them, by more than
    chance allows.
    """
    newest = [
        (pair, min(0.95, max(0.05, pair.expected)))  # a fit to few pairs is surer than it may be
        for pair in pairs
        if pair.expected is not None and pair.at > last.noticed_at
    ][-_WINDOW:]
    if len(newest) < EVERY:
        return last
    if abs(_moved(newest)) <= _CHANGED:
        return last
    # Where it shows most, it began.
    begins = range(len(newest) - EVERY // 2)
    newest = newest[max(begins, key=lambda place: abs(_moved(newest[place:]))) :]
    return AgreementChange(
        began_at=newest[0][0].at - 1e-6,
        noticed_at=newest[-1][0].at,
        share=sum(pair.same for pair, _ in newest) / len(newest),
        expected=sum(chance for _, chance in newest) / len(newest),
    )


def _moved(pairs: Sequence[tuple[LearnedPair, float]]) -> float:
    """Return how far agreement lies from what was expected, in standard errors."""
    over = sum(pair.same - chance for pair, chance in pairs)
    return over / math.sqrt(sum(chance * (1.0 - chance) for _, chance in pairs))


def rule_of(learnt: LearntPolicy) -> FirstDayRule:
    """Return the rule of a learnt policy."""
    return FirstDayRule(learnt.rule, far_model=learnt.far_model)


def read_learnt(path: Path) -> LearntPolicy:
    """Read a learnt policy. Raises SettingsError where it is damaged or of another version."""
    try:
        found = msgspec.json.decode(read_bytes(path, MAX_TEXT_BYTES), type=LearntPolicy)
    except (OSError, msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"the learnt policy {path} cannot be read ({cause(error)}); the next pairs make it "
            "anew, or run `nearfar policy forget`"
        ) from None
    if found.version != VERSION or found.rule.near.names != NAMES:
        raise SettingsError(
            f"the learnt policy {path} is of another version than this nearfar; the next pairs "
            "make it anew, or run `nearfar policy forget`"
        )
    return found


def write_learnt(learnt: LearntPolicy, path: Path) -> None:
    """Write a learnt policy, for its owner alone."""
    atomic_write(path, msgspec.json.encode(learnt) + b"\n")
