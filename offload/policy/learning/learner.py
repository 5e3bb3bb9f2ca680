"""Learning in use: far answers, which were asked for anyway, teach the policy of the near model.

A thread of its own labels each pair, keeps its numbers and fits anew when enough are new, so that
no reader waits. What goes wrong there is told once and changes no answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec

from backbone.errors import NearfarError
from offload.errors import SettingsError
from offload.hybrid.answer_pair import AnswerPair
from offload.policy.fitting.far_labels import agrees
from offload.policy.learning.pair_store import VERSION, LearnedPair, PairStore, StoreHead
from offload.policy.learning.refit import (
    EVERY,
    AgreementChange,
    LearntPolicy,
    noticed_change,
    read_learnt,
    refit,
    rule_of,
    write_learnt,
)
from offload.policy.serving.answer_features import answer_features, prompt_features
from offload.policy.serving.consistency import QuestionForm
from offload.policy.serving.first_day import FirstDayRule, first_day
from offload.policy.serving.logistic import chance
from offload.policy.serving.policy_file import Pairing, policy_name
from offload.policy.serving.rule import Rule

_log = logging.getLogger("nearfar.policy")
_MOST_WAITING = 100  # pairs that could not be written yet


@dataclass(frozen=True)
class NearModel:
    """Near model that is learnt for: its name, its content, and its KV cache type."""

    name: str
    content: str
    kv_cache_dtype: str

    def file_name(self, far_model: str) -> str:
        """Return the name of the file of pairs with a far model."""
        pairing = Pairing(
            edge_model=self.name,
            edge_hash=self.content,
            quantization="",
            kv_cache_dtype=self.kv_cache_dtype,
            cloud_model=far_model,
        )
        return policy_name(pairing).removesuffix(".json") + ".jsonl"

    def newest(self, folder: Path) -> Path | None:
        """Return the learnt policy that was written last for this model, None without one."""
        found = list(folder.glob(self.file_name("*").replace("-.jsonl", "*.json")))
        return max(found, key=lambda each: each.stat().st_mtime) if found else None


class LearningInUse:
    """Learner of one near model, beside whatever far models answer; see Learner."""

    def __init__(
        self, folder: Path, near: NearModel, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder, self._near, self._clock = folder, near, clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nearfar-learning")
        self._newer: Rule | None = None
        self._weights = near.newest(folder)  # of the rule that decides, if it was learnt
        self._waiting: dict[str, list[LearnedPair]] = {}
        self._told: set[str] = set()

    def take(self, pair: AnswerPair) -> None:
        self._thread.submit(self._learn, pair)

    def newer_rule(self) -> Rule | None:
        newer, self._newer = self._newer, None
        if newer is None and self._weights is not None and not self._weights.exists():
            newer, self._weights = first_day(), None  # a person had it forgotten
        return newer

    def rule_for(self, far_model: str) -> Rule | None:
        try:
            learnt = self._learnt(self._path(far_model))
        except SettingsError:
            return None
        return None if learnt is None else rule_of(learnt)

    async def aclose(self) -> None:
        await asyncio.to_thread(self._thread.shutdown)

    def _learn(self, pair: AnswerPair) -> None:
        try:
            row = learned(pair, now=self._clock())
            if row is not None:
                self._keep(row, pair.far_model)
        except NearfarError as error:
            self._tell(f"nothing is learnt from now on: {error}", once="kept")
        except Exception as error:  # whatever it is, the answers go on
            self._tell(f"nothing is learnt from now on ({type(error).__name__})", once="kept")

    def _keep(self, row: LearnedPair, far_model: str) -> None:
        path = self._path(far_model)
        if not path.exists():
            self._tell_what_changed(path, far_model)
        try:
            before = self._learnt(path)
        except SettingsError as error:
            self._tell(str(error), once="damaged")
            before = None
        if before is not None:
            expected = round(chance(before.rule.near(row.features)), 4)
            row = msgspec.structs.replace(row, expected=expected)
        store = PairStore(path, self._head(far_model), damaged=self._tell)
        waiting = [*self._waiting.get(far_model, []), row][-_MOST_WAITING:]
        self._waiting[far_model] = waiting
        pairs = store.add(waiting)
        self._waiting[far_model] = []
        self._told.discard("kept")
        if before is None or sum(pair.at > before.newest_at for pair in pairs) >= EVERY:
            self._fit(pairs, before, path, far_model)

    def _fit(
        self, pairs: list[LearnedPair], before: LearntPolicy | None, path: Path, far_model: str
    ) -> None:
        last = AgreementChange() if before is None else before.change
        change = noticed_change(pairs, last)
        if change != last:
            self._tell_of_agreement(change, far_model)
        found = refit(
            pairs,
            first_day().file,
            near_model=self._near.name,
            far_model=far_model,
            now=self._clock(),
            change=change,
        )
        if found is None:
            return
        write_learnt(found, path.with_suffix(".json"))
        self._weights = path.with_suffix(".json")
        if found.far_is_worse and not (before is not None and before.far_is_worse):
            self._tell_of_the_far(found)
        self._newer = rule_of(found)

    def _learnt(self, path: Path) -> LearntPolicy | None:
        weights = path.with_suffix(".json")
        return read_learnt(weights) if weights.exists() else None

    def _path(self, far_model: str) -> Path:
        return self._folder / self._near.file_name(far_model)

    def _head(self, far_model: str) -> StoreHead:
        return StoreHead(
            version=VERSION,
            near_model=self._near.name,
            near_hash=self._near.content,
            far_model=far_model,
        )

    def _tell_what_changed(self, path: Path, far_model: str) -> None:
        """Say where a model is another than the one that was learnt from before."""
        same_near = self._near.newest(self._folder)
        for other in sorted(self._folder.glob("*.json")):
            try:
                learnt = read_learnt(other)
            except SettingsError:
                continue
            if other == same_near:
                self._tell(
                    f"the far model is {far_model} now, and the policy was learnt beside "
                    f"{learnt.far_model}: learning begins anew, what was learnt is kept"
                )
            elif learnt.near_model == self._near.name and same_near is None:
                self._tell(
                    f"the near model {self._near.name} is another file than the one that was "
                    "learnt from: learning begins anew, what was learnt is kept"
                )

    def _tell_of_agreement(self, change: AgreementChange, far_model: str) -> None:
        self._tell(
            f"the near model's last answers agree with those of {far_model} in {change.share:.0%}, "
            f"and {change.expected:.0%} was to be expected by what was learnt: one of the two has "
            "changed, or what is asked, and what was learnt before counts little now"
        )

    def _tell_of_the_far(self, found: LearntPolicy) -> None:
        self._tell(
            f"where the two differ, the far model {found.far_model} looks worse than the near one "
            f"(right {found.far_right:.0%} against {found.near_right:.0%} by the shipped rule, "
            f"{found.differ} pairs): answers are kept near; name the model auto-cloud to ask it"
        )

    def _tell(self, what: str, once: str = "") -> None:
        if once and once in self._told:
            return
        self._told.add(once)
        _log.warning("nearfar: %s", what)


def open_learnt(folder: Path, near: NearModel) -> FirstDayRule | None:
    """Return the rule that was learnt last for a near model, None without one.

    Raises SettingsError where it cannot be read.
    """
    path = near.newest(folder)
    return None if path is None else rule_of(read_learnt(path))


def learned(pair: AnswerPair, *, now: float) -> LearnedPair | None:
    """Return a pair as numbers; None where only a reader could tell whether both say the same."""
    asked = QuestionForm.read(pair.question)
    same = agrees(pair.near.text, pair.far.text, asked)
    if same is None:
        return None
    near = answer_features(asked, pair.near)
    far = answer_features(asked, pair.far)
    judge = first_day().file.near
    has_tokens = pair.near.num_tokens > 0 and pair.far.num_tokens > 0
    return LearnedPair(
        at=now,
        same=same,
        features=tuple(round(each, 4) for each in near),
        prompt=tuple(round(each, 4) for each in prompt_features(asked)),
        propensity=pair.propensity,
        near=round(chance(judge(near)), 4) if has_tokens else None,
        far=round(chance(judge(far)), 4) if has_tokens else None,
    )
