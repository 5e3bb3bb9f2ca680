"""Decision state of one request: what was expected, what its answer showed, and the record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from offload.chain import onward_of
from offload.egress.privacy.shareable_part import part_that_leaves
from offload.engine import Engine
from offload.errors import LinkError
from offload.hybrid.answer_pair import AnswerPair
from offload.messages import Delta, Finish, Request, Route, Side, Usage
from offload.policy.serving.check import FarReading, judged
from offload.policy.serving.dispatch import (
    DispatchInputs,
    LatencyModel,
    MeasuredCloud,
    PredictedTimes,
    Start,
    dispatch,
)
from offload.policy.serving.failsafe import Failsafe
from offload.policy.serving.lend import visit_len
from offload.policy.serving.monitor import Monitor
from offload.policy.serving.rule import Estimate, Limit, PromptEstimate, Rule
from offload.policy.serving.signals import Signals
from offload.reasons import sureness


@dataclass(frozen=True, kw_only=True)
class ExplorationDraw:
    """Exploration draw of one request: with probability `share` the policy's choice is reversed.

    `only_far`: only where it would keep the near answer, so that no doubtful one is shown for it.
    """

    share: float
    opposite: bool
    only_far: bool = False

    @property
    def propensity(self) -> float:
        """Return how likely the side was that is chosen now."""
        return self.share if self.opposite else 1.0 - self.share


@dataclass(frozen=True, kw_only=True)
class DecisionInputs:
    """Inputs of one request's decision; the latency models are shared by all requests.

    `draw` is None where nothing is left to chance.
    """

    rule: Rule
    limit: Limit
    handover: Literal["replace", "continue"]
    rescue: Literal["replace", "continue"]
    near_latency: LatencyModel
    far_latency: LatencyModel
    draw: ExplorationDraw | None = None


class DecisionState:
    """Decision state: estimates of a request, the monitor of its near answer, figures to record.

    An estimate that fails never fails the request: from then on the near answer stands.
    """

    def __init__(self, by: DecisionInputs, request: Request, cloud: Engine | None) -> None:
        self._by, self._request = by, request
        self.visit_len = visit_len(_round_trip_s(cloud), by.far_latency.token_s)
        self._failsafe = safely = Failsafe()
        self.expected = safely(lambda: by.rule.expect(request.last_text()), PromptEstimate())
        self._near_times = safely(lambda: by.near_latency.near(request), PredictedTimes())
        self.far_times = safely(lambda: by.far_latency.far(request, cloud), PredictedTimes())
        self._estimate: Estimate | None = None
        self._when_tripped: Estimate | None = None
        self._was_cut = False
        self._by_prompt = False  # whether the prompt alone had decided
        self.draw = by.draw
        self.asked_far = False
        self._checked: Estimate | None = None  # by a far model that read the near answer
        self._helped = Usage()  # what readings and visits of the far model took
        self._num_visits = 0
        self.monitor = self._fresh()

    def start(self) -> tuple[Start, str]:
        """Return who should begin, and why."""
        outlook = DispatchInputs(
            expected=self.expected,
            near=self._near_times,
            far=self.far_times,
            deadline_s=self._request.deadline_s,
        )
        nobody: tuple[Start, str] = ("near_only", "undecided")
        start, reason = self._failsafe(
            lambda: dispatch(outlook, self._by.limit, self._by.rule.far_at_once_gain), nobody
        )
        if reason not in ("confident", "too_hard") or self._request.deadline_s is not None:
            self.draw = None  # the clock decides
        self._by_prompt = start == "far"
        if self._by_prompt and self.draw is not None and self.draw.only_far:
            self.draw = None
        if self._by_prompt and self._is_opposite:
            return "near_only", "explored"
        return start, reason

    def see(self, delta: Delta) -> None:
        """Take the newest piece of the near answer."""
        lent = delta.source == "cloud"  # of which the near model's own figures say nothing
        self.monitor.see(msgspec.structs.replace(delta, confidence=()) if lent else delta)
        if self._is_opposite and self.monitor.tripped and self._when_tripped is None:
            # What the policy would have acted on; the answer is written to its end all the same.
            self._when_tripped = self.monitor.estimate()

    @property
    def wants_far(self) -> str | None:
        """Return the reason code for asking far now, None while nothing speaks for it."""
        if self._failsafe.failed:
            return None
        if not self._is_opposite:
            return "unsure" if self.monitor.tripped else None
        return "explored" if self.monitor.concluded and not self.monitor.tripped else None

    @property
    def propensity(self) -> float:
        """Return how likely the side was that was chosen."""
        return 1.0 if self.draw is None or self._is_settled else self.draw.propensity

    @property
    def _is_opposite(self) -> bool:
        return self.draw is not None and self.draw.opposite and not self._is_settled

    @property
    def _is_settled(self) -> bool:
        """Whether the draw decides nothing: it only reverses what is kept near."""
        return self.draw is not None and self.draw.only_far and self.monitor.tripped

    def watch_anew(self) -> None:
        """Forget the near answer so far: a new one is begun."""
        self.monitor = self._fresh()

    def _fresh(self) -> Monitor:
        wants_json = self._request.sampling.json_schema is not None
        return Monitor(
            self._by.rule,
            self._by.limit,
            self.expected,
            question=self._request.last_text(),
            wants_json=wants_json,
            failsafe=self._failsafe,
        )

    def take_check(self, reading: FarReading, usage: Usage) -> bool:
        """Judge the near answer again by what a far model told of it; return whether it stands."""
        self._helped = self._helped.plus(usage)
        estimate = self.monitor.estimate()
        if estimate is None or estimate.right is None:
            return False
        self._checked = judged(estimate, reading)
        return not self._by.limit.passed_by(self._checked)

    def take_lent(self, num_visits: int, usage: Usage) -> None:
        """Take note that the far model wrote words of the near answer."""
        self._num_visits = num_visits
        self._helped = self._helped.plus(usage)

    def _judged(self) -> Estimate | None:
        """Return what the near answer is worth by all that is known of it by now."""
        if self._checked is not None:
            return self._checked
        seen = self.monitor.num_tokens > 0 or self.monitor.concluded
        return self.monitor.estimate() if seen else None

    def kept(self, reason: str, settled: str) -> str:
        """Return why a finished near answer stands; `settled` is the gate's own reason."""
        estimate = self.monitor.estimate()
        if estimate is None:
            return "undecided"
        if self._is_opposite:
            return "explored"
        if self._num_visits and reason == settled:
            return "lent"
        if reason == "hedged":
            return "confident"
        right = estimate.right
        unsure = right is not None and sureness(right) == "unsure"
        if reason == settled and estimate.far is not None and unsure:
            return "neither"
        return reason

    def cut(self, shown: str) -> Delta | None:
        """Return what takes back the circles at the end of a near answer, None without any."""
        count = self._failsafe(self.monitor.num_in_circles, 0)
        self._was_cut = count > 0
        if not count:
            return None
        return Delta(text=shown[: len(shown) - count], source="edge", replaces=True)

    def pair(self, far: Signals, far_model: str) -> AnswerPair | None:
        """Return both finished answers; None where the near one was not written to its end."""
        monitor = self.monitor
        if not monitor.concluded or not monitor.num_tokens or not far.text:
            return None
        return AnswerPair(
            question=self._request.last_text(),
            near=monitor.signals,
            flags=monitor.flags,
            far=far,
            far_model=far_model,
            propensity=self.propensity,
        )

    def broken_off(self) -> Finish:
        """Return the end of a near answer that was stopped in its circles."""
        return Finish(reason="stop", usage=self.monitor.usage())

    def routed(
        self,
        finish: Finish,
        side: Side,
        reason: str,
        failure: LinkError | None = None,
        *,
        given_up: bool = False,
    ) -> Finish:
        """Return the end of an answer with who gave it, why, and how sure that was.

        `failure` is what the cloud was asked in vain with, and what had left by then counts as
        sent; `given_up` says that it was asked and not waited for.
        """
        estimate = self._estimate = self._judged()
        helped, own = self._helped, finish.usage if side == "cloud" else Usage()
        route = Route(
            served_by=side,
            reason=reason,
            confidence=estimate.right if estimate else None,
            p_gain=estimate.gain if estimate else self.expected.gain,
            failure=None if failure is None else str(failure),
            sent_is_known=_sent_is_known(failure, given_up),
            cut=side == "edge" and self._was_cut,
            checked=self._checked is not None,
            visits=self._num_visits,
            far_read=own.prompt_tokens + helped.prompt_tokens,
            far_written=own.completion_tokens + helped.completion_tokens,
            onward=onward_of(finish.route) if side == "cloud" else (),
        )
        lost = (failure.bytes_sent or 0) if failure is not None else 0
        usage = msgspec.structs.replace(
            finish.usage,
            bytes_sent=finish.usage.bytes_sent + lost + helped.bytes_sent,
            bytes_received=finish.usage.bytes_received + helped.bytes_received,
            cost=finish.usage.cost + helped.cost,
        )
        return msgspec.structs.replace(finish, route=route, usage=usage)

    @property
    def need(self) -> float:
        """Return by what this request is ranked among others that share a budget."""
        if self._estimate is not None:
            return self._estimate.need
        return self.expected.gain or 0.0

    def inputs(self) -> dict[str, float | str | bool | None]:
        """Return the figures that the policy saw, by name."""
        estimate, monitor = self._when_tripped or self._estimate, self.monitor
        if self._by_prompt:
            estimate = None
        return {
            "p_near": estimate.right if estimate else self.expected.near,
            "p_far": estimate.far if estimate else self.expected.far,
            "checked": self._checked is not None,
            "visits": float(self._num_visits),
            "score": estimate.score if estimate else None,
            "least_logprob": monitor.least_logprob if monitor.num_tokens else None,
            "near_tokens": float(monitor.num_tokens),
            "near_finished": monitor.concluded,
            "flags": ",".join(monitor.flags),
            "max_need": _plain(self._by.limit.max_need),
            "min_score": _plain(self._by.limit.min_score),
            "near_whole_s": self._near_times.whole_s,
            "far_first_s": self.far_times.first_s,
            "far_whole_s": self.far_times.whole_s,
            "deadline_s": self._request.deadline_s,
            "handover": self._by.handover,
            "asked_far": self.asked_far,
        }


def _sent_is_known(failure: LinkError | None, given_up: bool) -> bool | None:
    if failure is not None:
        return failure.bytes_sent is not None
    return False if given_up else None


def _round_trip_s(cloud: Engine | None) -> float | None:
    return cloud.snapshot().rtt_s if isinstance(cloud, MeasuredCloud) else None


def _plain(value: float) -> float | None:
    """Return a limit as JSON can hold it; one at infinity limits nothing."""
    return value if abs(value) < 1e300 else None


def with_left_out(request: Request, finish: Finish) -> Finish:
    """Return the end of an answer with how many turns the cloud, if it answered, was not shown."""
    route = finish.route
    _, left_out = part_that_leaves(request)
    if not left_out or route is None or route.served_by != "cloud":
        return finish
    route = msgspec.structs.replace(route, left_out=left_out)
    return msgspec.structs.replace(finish, route=route)
