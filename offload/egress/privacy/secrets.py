"""Secret detectors: keys, tokens and passwords, by their makers' forms and by entropy."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from offload.egress.privacy.linear import Pattern, as_ascii

# The prefixes are published by those who issue the keys, so that leaked ones can be found.
_SHAPES = re.compile(
    r"-----BEGIN (?P<pem>[A-Z ]*PRIVATE KEY(?: BLOCK)?)-----.*?(?:-----END (?P=pem)-----|\Z)"
    r"|(?<![\w-])(?:"
    r"sk-(?:proj-|ant-|or-|live-|svcacct-)?[\w-]{16,}"
    r"|(?:sk|pk|rk|whsec)_(?:live_|test_)?[A-Za-z0-9]{16,}"
    r"|gh[opsur]_[A-Za-z0-9]{30,}|github_pat_\w{22,}|glpat-[\w-]{20,}|gl(?:dt|rt|cbt)-[\w-]{20,}"
    r"|(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}|AIza[\w-]{35}|ya29\.[\w-]{20,}|GOCSPX-[\w-]{20,}"
    r"|xox[abeoprs]-[\w-]{10,}|xapp-[\w-]{10,}|hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{36}"
    r"|pypi-[\w-]{30,}|SG\.[\w-]{16,}\.[\w-]{16,}|key-[0-9a-f]{32}|dop_v1_[0-9a-f]{64}"
    r"|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}|sq0[a-z]{3}-[\w-]{22,}|EAAC[\w]{30,}|r8_[A-Za-z0-9]{30,}"
    r"|gsk_[A-Za-z0-9]{20,}|xai-[A-Za-z0-9]{20,}|nvapi-[\w-]{20,}|tskey-[\w-]{16,}|AGE-SECRET-KEY-1[A-Z0-9]{58}"
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}(?:\.[\w-]*)?"
    r")",
    re.DOTALL,
)
_IN_URL = re.compile(r"\b[a-z][a-z0-9+.-]{1,15}://[^\s/:@]*:(?P<secret>[^\s/@]{3,})@", re.I)
_BEARER = re.compile(r"\b(?:bearer|basic)\s+(?P<secret>[A-Za-z0-9+/_.=-]{16,})", re.I)

_NAMED = Pattern(  # what, joint, quote, secret
    r"(pass(?:word|wd|phrase|code)?|pwd|passwort|kennwort|mot de passe|contrasena|"
    r"wachtwoord|secret|token|api[ _-]?key|access[ _-]?key|auth[ _-]?key|private[ _-]?key|"
    r"client[ _-]?secret|"
    r"credentials?|pin|otp|\w{1,40}_(?:key|token|secret|pass(?:word)?|pwd))"
    r"[\"']?\s{0,3}(:=|=>|=|:|\b(?:is(?: set to)?|are|was|ist|est|es)\b)\s{0,3}"
    r"([\"'`]?)([^\s\"'`<>]{3,128})",
    any_case=True,
)
_RANDOM = re.compile(r"(?<![\w/+.=@-])[A-Za-z0-9+/_=-]{20,256}(?![\w@])")
_HEX = re.compile(r"[0-9a-fA-F-]+={0,2}")
_NOT_SECRET = re.compile(
    r"(?:true|false|none|null|undefined|required|optional|str(?:ing)?|int|bool|bytes|any|self\b.*|"
    r"os\..*|process\..*|getenv.*|env\..*|\$[A-Z_]+|\$[{(].*|%s|%\w*%|%\(.*|\{.*|\[.*|\(.*\)|\*+|x+|\.{3,}|…|[\w.]+\(.*|/.*|https?:.*)",
    re.IGNORECASE,
)
# "the access token X", with nothing between: only what no word looks like
_JUST_NAMED = re.compile(
    r"(?:bearer|pass(?:word|wd|phrase)|secret|"
    r"(?:access|api|deploy|auth|secret|private) (?:key|token))\s+"
    r"(?P<secret>[^\s\"'`<>]{8,128})",
    re.IGNORECASE,
)
_SPEAKS_OF_KEYS = re.compile(r"(?:key|token|secret|password|credential|bearer)", re.IGNORECASE)
_MIN_BITS = 3.4  # per character; 20 random base-62 characters have about 4.0, words about 3


def find_secrets(text: str) -> Iterator[tuple[int, int]]:
    """Find keys, tokens and passwords."""
    for pattern in (_IN_URL, _BEARER):
        yield from (match.span("secret") for match in pattern.finditer(text))
    yield from (match.span() for match in _SHAPES.finditer(text))
    for found in _NAMED.matches(as_ascii(text)):
        what, joint, quote = (found[group].decode() for group in (2, 3, 4))
        start, end = found.span(5)
        secret = text[start:end].rstrip(".,;:!?)]}")
        if _is_named_secret(secret, what.lower(), joint, is_quoted=bool(quote)):
            yield start, start + len(secret)
    for match in _JUST_NAMED.finditer(text):
        secret = match["secret"].rstrip(".,;:!?")
        if _num_kinds(secret) >= 3 and not _NOT_SECRET.fullmatch(secret):
            yield match.start("secret"), match.start("secret") + len(secret)
    for match in _RANDOM.finditer(text):
        if _is_random(match[0], text[max(0, match.start() - 40) : match.start()]):
            yield match.span()


def _is_named_secret(secret: str, what: str, joint: str, *, is_quoted: bool) -> bool:
    if what in ("pin", "otp"):
        return secret.isdigit() and 4 <= len(secret) <= 8
    if len(secret) < 4 or _NOT_SECRET.fullmatch(secret):
        return False
    if is_quoted and joint in ("=", ":", ":=", "=>"):
        return len(secret) >= 6
    # A plain word behind "the password is" is more likely a sentence than a password.
    plain = re.fullmatch(r"[A-Z]?[a-z]+(?:[-'_.][a-z]+)*", secret)
    return len(secret) >= 5 and _num_kinds(secret) >= 2 and plain is None


def _num_kinds(word: str) -> int:
    """Return how many kinds of characters are in a word: small, capital, digit, other."""
    kinds = (str.islower, str.isupper, str.isdigit, lambda c: not c.isalnum())
    return sum(any(map(kind, word)) for kind in kinds)


def _is_random(word: str, before: str) -> bool:
    """Whether a long word looks drawn by lot: many bits a character, and kinds that alternate."""
    bare = word.strip("=-_/+")
    if _HEX.fullmatch(word):  # a hash or a UUID, unless it is called a key
        return len(bare) >= 32 and _SPEAKS_OF_KEYS.search(before) is not None
    kinds = ["d" if c.isdigit() else "u" if c.isupper() else "l" for c in bare if c.isalnum()]
    if len(bare) < 20 or len(set(kinds)) < 3 or bare.count("/") > len(bare) // 12:
        return False
    changes = sum(left != right for left, right in pairwise(kinds))
    return kinds.count("d") >= 2 and changes >= 0.35 * len(kinds) and _bits(bare) >= _MIN_BITS


def _bits(word: str) -> float:
    """Return the entropy of a word's own letters, in bits per character."""
    shares = [count / len(word) for count in Counter(word).values()]
    return -sum(share * math.log2(share) for share in shares)
