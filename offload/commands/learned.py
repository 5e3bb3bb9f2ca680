"""Commands `nearfar policy show` and `forget`: what was learnt in use, and beginning anew."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from backbone.terminal_text import echo, echo_json
from offload.config.places import places
from offload.config.settings_reading import load
from offload.errors import SettingsError
from offload.messages import BaseStruct
from offload.policy.learning.pair_store import LearnedPair, read_store
from offload.policy.learning.refit import EVERY, MIN_EACH, MIN_PAIRS, LearntPolicy, read_learnt


class Learned(BaseStruct, frozen=True, kw_only=True):
    """What was learnt of one near and one far model; `trouble` is why something is of no use."""

    near_model: str
    far_model: str
    path: str
    num_pairs: int
    num_same: int
    newest_at: float  # seconds since the epoch, here and below; 0 for never
    fitted_at: float = 0.0
    fitted_to: int = 0
    changed_at: float = 0.0
    far_is_worse: bool = False
    trouble: str = ""


def show(*, as_json: bool) -> None:
    """Say what the policy learnt from, how many pairs, and when."""
    found = [_learned(path) for path in sorted(places().learning.glob("*.jsonl"))]
    learn = load(places().config_file).policy.learn
    if as_json:
        document = {"learn": learn, "learned": msgspec.to_builtins(found)}
        echo_json(msgspec.json.encode(document).decode())
        return
    echo(f"policy.learn is {learn}")
    if not found:
        echo("nothing was learnt in use; the rule of the first day or a calibrated policy decides")
    for each in found:
        echo("\n".join(told_of(each)))


def told_of(found: Learned) -> list[str]:
    """Return what was learnt of one pair of models in sentences."""
    if found.trouble and not found.num_pairs:
        return [f"nearfar: {found.trouble}"]
    same = found.num_same / max(1, found.num_pairs)
    lines = [
        f"{found.near_model} beside {found.far_model}: {found.num_pairs} pairs of answers, "
        f"{same:.0%} of them the same, the last on {_day(found.newest_at)}"
    ]
    if found.fitted_at:
        lines.append(
            f"  fitted to {found.fitted_to} pairs on {_day(found.fitted_at)}, anew every {EVERY}"
        )
    else:
        lines.append(
            f"  not fitted yet: that needs {MIN_PAIRS} pairs, {MIN_EACH} of them the same and "
            f"{MIN_EACH} otherwise"
        )
    if found.changed_at:
        lines.append(f"  one of the models changed after {_day(found.changed_at)}")
    if found.far_is_worse:
        lines.append("  the far model looks worse than the near one, so answers are kept near")
    if found.trouble:
        lines.append(f"  {found.trouble}")
    return [*lines, f"  {found.path}"]


def forget(*, as_json: bool) -> None:
    """Delete what was learnt in use, of all models; the rule of the first day decides again."""
    folder = places().learning
    pairs = sorted(folder.glob("*.jsonl"))
    found = [*pairs, *folder.glob("*.json"), *folder.glob("*.lock"), *folder.glob("*.damaged-*")]
    for path in found:
        path.unlink(missing_ok=True)
    if as_json:
        echo_json(msgspec.json.encode({"forgotten": len(pairs)}).decode())
        return
    echo(
        f"forgot what was learnt of {len(pairs)} pairs of models" if found else "nothing to forget"
    )


def _learned(path: Path) -> Learned:
    weights, trouble = path.with_suffix(".json"), ""
    pairs: list[LearnedPair] = []
    learnt: LearntPolicy | None = None
    near = far = ""
    try:
        content = read_store(path)
        pairs, near, far = content.pairs, content.head.near_model, content.head.far_model
        if content.num_broken:
            trouble = f"{content.num_broken} lines could not be read and were passed over"
        learnt = read_learnt(weights) if weights.exists() else None
    except SettingsError as error:
        trouble = str(error)
    return Learned(
        near_model=near,
        far_model=far,
        path=str(path),
        num_pairs=len(pairs),
        num_same=sum(pair.same for pair in pairs),
        newest_at=max((pair.at for pair in pairs), default=0.0),
        fitted_at=learnt.fitted_at if learnt else 0.0,
        fitted_to=learnt.num_pairs if learnt else 0,
        changed_at=learnt.change.began_at if learnt else 0.0,
        far_is_worse=learnt.far_is_worse if learnt else False,
        trouble=trouble,
    )


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
