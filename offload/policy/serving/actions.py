"""Actions of the policy in one request: what the far model may be asked for, besides nothing."""

from __future__ import annotations

from dataclasses import dataclass

from offload.messages import Request
from offload.policy.serving.check import CheckWatch
from offload.policy.serving.lend import LendWatch

BY_DEFAULT = frozenset({"near", "ask"})


@dataclass(frozen=True, kw_only=True)
class Actions:
    """Actions that may be chosen: whole answers, readings of near ones, words of near ones.

    A watch is None where its action may not be chosen.
    """

    asks: bool = True
    check: CheckWatch | None = None
    lend: LendWatch | None = None


class Watches:
    """Watches over what the far model makes of its actions, for as long as the policy lives."""

    def __init__(self) -> None:
        self._check, self._lend = CheckWatch(), LendWatch()

    def actions(self, chosen: frozenset[str], request: Request, *, settles: bool) -> Actions:
        """Return what may be chosen in one request, where `chosen` may be at all.

        An answer in a form of the caller's is not helped with; nor are words lent to one that may
        still be withdrawn, where its reader cannot take text back (`settles`).
        """
        asks, sampling = "ask" in chosen, request.sampling
        is_plain = bool(request.messages) and not request.tools
        in_form = sampling.json_schema is not None or sampling.logprobs or sampling.stop
        lends = "lend" in chosen and is_plain and not in_form and not (settles and asks)
        return Actions(
            asks=asks,
            check=self._check if "check" in chosen and is_plain else None,
            lend=self._lend if lends else None,
        )
