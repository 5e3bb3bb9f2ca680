"""What kind of token stands at a place: a number, a word, a name, code, punctuation, or space.

Doubt between two numbers is doubt about the answer; doubt between two words is often only doubt
about how to put it.
"""

from __future__ import annotations

NUMBER, LETTER, NAME, WORD, CODE, MARK, SPACE = "n", "l", "N", "w", "c", "m", "s"
_CODE = set("+-*/=<>(){}[]\\_^|&%$#@~`")


def token_kind(text: str) -> str:
    """Return one letter: n number, l lone capital, N name, w word, c code, m mark, s space."""
    bare = text.strip()
    if not bare:
        return SPACE
    if any(each.isdigit() for each in bare):
        return NUMBER
    if len(bare) == 1 and bare.isascii() and bare.isupper():
        return LETTER
    if bare[0].isalpha():
        return NAME if bare[0].isupper() else WORD
    return CODE if _CODE & set(bare) else MARK
