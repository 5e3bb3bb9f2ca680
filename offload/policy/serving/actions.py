"""Actions of the policy in one request: what the far model may be asked for, besides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from offload.messages import Request
from offload.policy.serving.check import CheckWatch
from offload.policy.serving.lend import LendWatch

BY_DEFAULT = frozenset({"near", "ask"})
# How much of what a far answer adds an action brings, and how many of its tokens are written far,
# on real answers: of checks (benchmarks/together.json), and of numbers lent to short answers
# (benchmarks/together_lend.json).
_SHARES = {"ask": (1.0, 1.0), "check": (0.95, 0.85), "lend": (1.0, 0.47)}
_WORDS = {
    "ask": "To ask for a far answer",
    "check": "To have the near answer read first",
    "lend": "To have words of it lent",
}


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


def worth_lines(inputs: Mapping[str, object]) -> list[str]:
    """Return what each action would have been worth, by the figures of one decision.

    In right answers a question, as other answers of these models turned out; nothing where the
    policy said no probability.
    """
    near, far, whole_s = (inputs.get(name) for name in ("p_near", "p_far", "far_whole_s"))
    if not isinstance(near, float) or not isinstance(far, float):
        return []
    lines = [f"As it stands the near answer is worth {near:.2f} of a right one."]
    for name, (share, written) in _SHARES.items():
        gain = f"{_WORDS[name]} would add {share * (far - near):+.2f}"
        if name != "ask":
            gain += f", with {written:.0%} of the tokens"
        elif isinstance(whole_s, float):
            gain += f", in about {whole_s:.1f} s"
        lines.append(f"{gain}.")
    return lines
