"""Contact detectors: e-mail addresses and telephone numbers, in many spellings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from offload.egress.privacy.linear import Pattern, as_ascii, without_long_blanks

_LOCAL = r"[\w.!#$%&'*+/=?^`{|}~-]"
_TOP = r"(?:[a-z]{2,24})"
_EMAIL = Pattern(
    rf"{_LOCAL}{{1,64}}@(?:[\w-]+\.)+{_TOP}",
    before=r"^|[^\w.+-]",
    behind=r"[^\w@]|$",
    any_case=True,
)

# "bob (at) example [dot] com", "bob @ example . com", "bob at example dot com"
_AT = r"(?:\s*[\[({<]\s*(?:at|@)\s*[\])}>]\s*|\s+@\s*|\s*@\s+|\s+at\s+)"
_DOT = r"(?:\s*[\[({<]\s*(?:dot|\.)\s*[\])}>]\s*|\s*\.\s*|\s+dot\s+)"
_KNOWN_TOP = (
    "com|org|net|edu|gov|mil|info|biz|io|ai|co|me|dev|app|eu|uk|de|fr|es|it|nl|be|ch|at|se|no|dk|fi|"
    "pl|pt|cz|ie|gr|ru|ua|tr|il|in|cn|jp|kr|tw|hk|sg|au|nz|za|br|mx|ar|ca|us|example|test"
)
_WRITTEN_OUT = Pattern(
    rf"[\w+-]+(?:{_DOT}[\w+-]+){{0,3}}?({_AT})[\w-]+(?:{_DOT}[\w-]+){{0,3}}?"
    rf"(?:{_DOT})(?:{_KNOWN_TOP})\b",
    before=r"^|[^\w.]",
    any_case=True,
)
_SAYS_DOT = re.compile(rb"\bdot\b", re.IGNORECASE)
_SPELLED = (
    Pattern(r"(?:[\w.+-]\s){2,64}@(?:\s[\w-])+\s\.(?:\s[\w.-])+", before=r"^|\s", behind=r"\s|$"),
    Pattern(r"(?:[\w.+-]\s){2,64}@\s?(?:[\w-]+\.)+[a-z]{2,24}\b", before=r"^|\s", any_case=True),
)

_CALLING = re.compile(
    r"(?:phone|tel|mob|cell|fax|call|ring|dial|sms|text(?:ing|ed)? me|whatsapp|signal|reach|"
    r"contact|number is|hotline|landline|handy|telefon|rufnummer|anrufen|numero|telephone|"
    r"portable|movil|llam|telefono|cellulare|telefoon|bel |nummer|puh|p\.|t\.|m\.)[^\n]{0,30}$",
    re.IGNORECASE,
)
_CALLED = re.compile(r"[^\n.]{0,16}\b(?:phone|call|ring|rang|text|dial|busy|voicemail)", re.I)
_DIGITS = re.compile(
    r"(?<![\w.,/$€£:+-])(?:\+|00|\()?\(?\d(?:[ ./()-]{0,3}\d){6,16}"
    r"(?:(?=x\d{1,6}\b)|(?![\w]|[.,:/-]\d))"
)
_EXTENSION = re.compile(
    r"\s{0,3}[,;]?\s{0,3}(?:x|ext\.?|extension|durchwahl)\s{0,3}\.?\s{0,3}\d{1,6}\b", re.I
)
# Where no country is set, numbers without a country code are read as each of these in turn.
COUNTRIES = (
    *("US", "GB", "DE", "FR", "ES", "IT", "NL", "BE", "CH", "AT", "SE", "NO", "DK", "FI", "PL"),
    *("PT", "IE", "IN", "AU", "NZ", "ZA", "BR", "MX", "JP", "KR", "CN", "TR", "IL", "SG"),
)
_DATE = re.compile(
    r"\(?(?:\d{4}([-/. ])\d{1,2}\1\d{1,2}|\d{1,2}([-/. ])\d{1,2}\2\d{4})(?:[ T]\d{1,2}.*)?$"
)


def find_emails(text: str) -> Iterator[tuple[int, int]]:
    """Find e-mail addresses, also where "at" and "dot" are written out or letters are spaced."""
    read = as_ascii(text)
    if b"@" in read:
        for start, end in _EMAIL.spans(read):
            # git@host:path is where a repository lies, the same for everybody.
            if not read[start:end].lower().startswith(b"git@"):
                yield _without_quotes(text, start, end)
        for shape in _SPELLED:
            yield from shape.spans(read)
    for found in _WRITTEN_OUT.matches(without_long_blanks(read)):
        # A plain "at" is believed only with a "dot" after it: people meet at example.com too.
        plain = found[2].strip().isalpha()
        if not plain or _SAYS_DOT.search(read, found.end(2), found.end(1)):
            yield found.span(1)


def _without_quotes(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start] in "'`*/=|{}!?~":
        start += 1
    return start, end


def find_phones(text: str, countries: Sequence[str] = ()) -> Iterator[tuple[int, int]]:
    """Find telephone numbers: valid with a country code, or in the form of one of `countries`.

    A bare row of digits is one only where the text before it speaks of calling.
    """
    for match in _DIGITS.finditer(text):
        number = match[0]
        digits = re.sub(r"\D", "", number)
        if (
            not 7 <= len(digits) <= 15
            or _DATE.match(number)
            or number.count("(") != number.count(")")
        ):
            continue
        called = bool(
            _CALLING.search(text[max(0, match.start() - 48) : match.start()])
            or _CALLED.match(text[match.end() : match.end() + 32])
        )
        if _is_phone(number, digits, countries or COUNTRIES, called=called):
            extension = _EXTENSION.match(text, match.end())
            yield match.start(), extension.end() if extension else match.end()


def _is_phone(number: str, digits: str, countries: Sequence[str], *, called: bool) -> bool:
    import phonenumbers

    if number.startswith(("+", "00", "(+")):
        international = "+" + digits.removeprefix("00") if number[0] == "0" else "+" + digits
        return called or _holds(phonenumbers.is_possible_number, international, None)
    if called:
        return True
    if not _looks_grouped(number, digits):
        return False
    return any(_holds(phonenumbers.is_valid_number, number, country) for country in countries)


def _holds(test: object, number: str, country: str | None) -> bool:
    import phonenumbers

    try:
        return bool(test(phonenumbers.parse(number, country)))  # type: ignore[operator]
    except phonenumbers.NumberParseException:
        return False


def _looks_grouped(number: str, digits: str) -> bool:
    """Whether digits stand in groups as in telephone numbers: (415) 555-2671, 0170 1234567."""
    groups = re.findall(r"\d+", number)
    if len(groups) < 2 or len(digits) < 9:
        return False
    if number.startswith("("):
        return len(groups[0]) in (2, 3, 4, 5)
    if digits[0] == "0":
        return len(groups[0]) <= 6
    return [len(group) for group in groups] in ([3, 3, 4], [1, 3, 3, 4], [3, 7], [3, 4, 4], [5, 5])
