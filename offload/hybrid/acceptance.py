"""Acceptance of a near answer while it is written, for a reader who cannot take text back.

What is accepted stands whatever comes, and a far model that is asked goes on from there. The rule
judges the unfinished answer as it would a finished one, at its 2nd, 4th, 8th ... token
(benchmarks/together.py has what that costs). An answer whose worth lies in its end, as that to a
question with numbers or options does, is judged when it is finished and not before.
"""

from __future__ import annotations

from offload.egress.door import EgressEngine
from offload.egress.privacy.closed_text import closed_part
from offload.egress.privacy.shareable_part import holds_private
from offload.hybrid.handover import accepted
from offload.messages import Request
from offload.policy.serving.monitor import Monitor
from offload.policy.serving.rule import Limit

_FIRST_LOOK = 2  # tokens


def may_accept(request: Request, cloud: EgressEngine | None) -> bool:
    """Return whether a far model could go on from a part of the near answer, without a seam.

    What an aim promises holds for finished answers alone.
    """
    sampling = request.sampling
    in_form = bool(request.tools or sampling.json_schema is not None or sampling.logprobs)
    if in_form or cloud is None or holds_private(request):
        return False
    return cloud.continues(request)


class Acceptance:
    """Acceptance of one near answer: `length` characters of it stand, and never fewer."""

    def __init__(self, limit: Limit) -> None:
        self._limit = limit
        self._look_at = _FIRST_LOOK
        self._is_frozen = False
        self.is_open = False  # whether what is written now is accepted as it comes
        self.length = 0

    def see(self, monitor: Monitor) -> None:
        """Look at the answer after its newest piece."""
        form = monitor.expected.form
        if self._is_frozen or form is None or not form.is_plain:
            return
        if monitor.num_tokens >= self._look_at:
            self._look_at *= 2
            estimate = monitor.estimate()
            self.is_open = estimate is not None and not self._limit.passed_by(estimate)
        if monitor.tripped:
            self.is_open = False
        if self.is_open:
            # It leaves when the far model goes on: no value may have begun at its end.
            self.length = max(self.length, len(closed_part(accepted(monitor.text))))

    def freeze(self) -> None:
        """Accept no more: the far model has been asked to go on from here."""
        self._is_frozen = True
