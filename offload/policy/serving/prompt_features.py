"""What a question alone says of how hard it is, for models that nobody has calibrated."""

from __future__ import annotations

import math

from offload.policy.serving.consistency import WhatIsAsked

# 1: the more, the likelier right; -1: the likelier wrong; 0: either.
PROMPT_SIGNS = {
    "numbers": -1,
    "words": -1,
    "options": -1,
    "listed": 0,
    "plain": 1,
}
PROMPT_NAMES = tuple(PROMPT_SIGNS)


def prompt_features(asked: WhatIsAsked) -> list[float]:
    """Return one number for each of PROMPT_NAMES."""
    bare = not (asked.numbers or asked.options or asked.listed or asked.asks_form)
    return [
        math.log1p(len(asked.numbers)),
        math.log1p(asked.num_words),
        math.log1p(len(asked.options)),
        float(bool(asked.listed)),
        float(bare),
    ]
