"""Which tokens of a conversation a model said itself: only those tell how well it predicts.

A chat model never learnt to guess the questions, so its perplexity on them is noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backbone.errors import NearfarError


def control_ids(folder: Path, names: tuple[str, str]) -> tuple[int, int]:
    """Return the ids of the tokens that open and close an answer. Raises NearfarError."""
    from quantize.calibration import encode

    start = encode(folder, "", parse_special=True)
    found = [encode(folder, name, parse_special=True)[len(start) :] for name in names]
    for name, ids in zip(names, found, strict=True):
        if len(ids) != 1:
            raise NearfarError(
                f"{name!r} is no single token of {folder.name}; name a control token of its "
                "tokenizer, for example '<|assistant|>'"
            )
    return found[0][0], found[1][0]


def inside_answers(tokens: Sequence[int], between: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which tokens follow an opening one, up to and with the closing one.

    What stands before the first of either is unknown, and counts as outside.
    """
    opening, closing = between
    said = np.zeros(len(tokens), dtype=np.bool_)
    speaking = False
    for place, token in enumerate(tokens):
        said[place] = speaking
        speaking = token == opening or (speaking and token != closing)
    return said
