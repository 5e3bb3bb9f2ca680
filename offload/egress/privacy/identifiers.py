"""Identifier detectors: cards, IBANs and national ids by check digits, IP addresses, paths."""

from __future__ import annotations

import ipaddress
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module

from offload.egress.privacy.linear import Pattern, as_ascii

_CARD = re.compile(r"(?<![\w.])\d(?:[ \t./_-]{0,3}\d){11,18}(?![\w]|[.,]\d)")
# Issuer ranges and lengths (ISO/IEC 7812); a number must also pass Luhn.
_ISSUERS = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}"
    r"|3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11}|35\d{14,17}|(?:2131|1800)\d{11}|0604\d{8}"
    r"|6(?:011|4[4-9]\d|5\d\d)\d{12,15}|62\d{14,17}|(?:50[0-9]|5[6-8]\d|6[0-9]\d)\d{9,16}"
)
_IBAN = re.compile(r"(?<![A-Z0-9])[A-Z]{2}[ .-]?\d(?:[ .-]?\d)(?:[ .-]{0,2}[A-Z0-9]){11,30}", re.I)


@dataclass(frozen=True)
class NationalId:
    """Form in which one country writes a number, and the stdnum module that checks it.

    `certain` ones carry a date or enough check digits to be known by themselves; the others
    are believed only where they stand in `written` form, or where the text speaks of them.
    """

    module: str
    shape: str
    certain: bool = False
    written: str | None = None


NATIONAL_IDS = (
    NationalId("us.ssn", r"\d{3}[ -]?\d{2}[ -]?\d{4}", written=r"\d{3}([ -])\d{2}\1\d{4}"),
    NationalId("us.itin", r"9\d{2}[ -]?\d{2}[ -]?\d{4}", written=r"9\d\d-\d\d-\d{4}"),
    NationalId("ca.sin", r"\d{3}[ -]?\d{3}[ -]?\d{3}", written=r"\d{3}-\d{3}-\d{3}"),
    NationalId("gb.nhs", r"\d{3}[ -]?\d{3}[ -]?\d{4}"),
    NationalId(
        "de.idnr", r"\d{2}[ /]?\d{3}[ /]?\d{3}[ /]?\d{3}", written=r"\d\d \d{3} \d{3} \d{3}"
    ),
    NationalId("fr.nir", r"[12] ?\d{2} ?\d{2} ?\d[\dAB] ?\d{3} ?\d{3} ?\d{2}", certain=True),
    NationalId("es.dni", r"\d{8}[ -]?[A-Z]", certain=True),
    NationalId("es.nie", r"[XYZ][ -]?\d{7}[ -]?[A-Z]", certain=True),
    NationalId("it.codicefiscale", r"[A-Z]{6} ?\d{2}[A-Z]\d{2} ?[A-Z]\d{3}[A-Z]", certain=True),
    NationalId("nl.bsn", r"\d{4}[ .]?\d{2}[ .]?\d{3}", written=r"\d{4}\.\d{2}\.\d{3}"),
    NationalId("be.nn", r"\d{2}[. ]?\d{2}[. ]?\d{2}[ -]?\d{3}[. ]?\d{2}", certain=True),
    NationalId("pl.pesel", r"\d{11}", certain=True),
    NationalId("se.personnummer", r"(?:\d{2})?\d{6}[-+]\d{4}", certain=True),
    NationalId("fi.hetu", r"\d{6}[-+A-FU-Y]\d{3}[0-9A-Z]", certain=True),
    NationalId("dk.cpr", r"\d{6}[ -]?\d{4}", written=r"\d{6}-\d{4}"),
    NationalId("no.fodselsnummer", r"\d{6} ?\d{5}", certain=True),
    NationalId("ch.ssn", r"756[. ]?\d{4}[. ]?\d{4}[. ]?\d{2}", certain=True),
    NationalId("at.vnr", r"\d{4} ?\d{6}"),
    NationalId("cz.rc", r"\d{6}/\d{3,4}", certain=True),
    NationalId("ro.cnp", r"[1-8]\d{12}", certain=True),
    NationalId("bg.egn", r"\d{10}"),
    NationalId("hr.oib", r"\d{11}"),
    NationalId("pt.nif", r"\d{3} ?\d{3} ?\d{3}"),
    NationalId("ie.pps", r"\d{7}[A-W][A-IW]?", certain=True),
    NationalId("tr.tckimlik", r"[1-9]\d{10}", certain=True),
    NationalId("br.cpf", r"\d{3}\.?\d{3}\.?\d{3}-?\d{2}", written=r"\d{3}\.\d{3}\.\d{3}-\d{2}"),
    NationalId("mx.curp", r"[A-Z]{4}\d{6}[HM][A-Z]{5}[0-9A-Z]\d", certain=True),
    NationalId("cl.rut", r"\d{1,2}\.?\d{3}\.?\d{3}-[\dK]", certain=True),
    NationalId(
        "in_.aadhaar", r"[2-9]\d{3}[ -]?\d{4}[ -]?\d{4}", written=r"\d{4}([ -])\d{4}\1\d{4}"
    ),
    NationalId("in_.pan", r"[A-Z]{5}\d{4}[A-Z]", certain=True),
    NationalId("cn.ric", r"\d{17}[\dX]", certain=True),
    NationalId("kr.rrn", r"\d{6}-\d{7}", certain=True),
    NationalId("jp.in_", r"\d{4}[ -]?\d{4}[ -]?\d{4}"),
    NationalId("za.idnr", r"\d{6} ?\d{4} ?\d{3}", certain=True),
    NationalId("au.tfn", r"\d{3} ?\d{3} ?\d{3}"),
)
_SHAPES = [
    (
        each,
        Pattern(
            each.shape,
            before=r"^|[^\w.,/+-]",
            behind=r"[^\w.,/-]|[.,/-](?:\D|$)|$",
            any_case=True,
        ),
    )
    for each in NATIONAL_IDS
]
# Two letters, six digits, one letter; the first letters leave out some (HMRC, NIM39110).
_NINO_SHAPE = Pattern(
    r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?: ?\d\d){3} ?[A-D]",
    before=r"^|[^\w.,/+-]",
    behind=r"[^\w.,/-]|[.,/-](?:\D|$)|$",
    unless=("BG", "GB", "NK", "KN", "TN", "NT", "ZZ"),
    any_case=True,
)
_SPEAKS_OF_IDS = Pattern(
    r"\b(?:ssn|social security|itin|tax\s?(?:payer)?\s?(?:id|number|file)|tin|tfn|sin\b|"
    r"social insurance|national (?:id|insurance)|nino|nhs|identity (?:card|number)|"
    r"id (?:card|no|number)|"
    r"passport|personal (?:id|number|code)|driv(?:er|ing)'?s? licen[cs]e|steuer|sozialvers|ausweis|"
    r"personnummer|personnr|cpr|bsn|burgerservice|nir|securite sociale|insee|dni|nie|nif|"
    r"codice fiscale|pesel|cnp|egn|oib|cpf|curp|rut|aadha?ar|pan|tc kimlik|fodselsnummer|ahv|avs|"
    r"medicare|voter)\b",
    any_case=True,
)
_SPOKEN_WITHIN = 40  # characters, on the same line
_ANY_ID = re.compile(
    r"(?<![\w.,/+-])(?=(?:[A-Z .-]{0,6}\d){6})[A-Z]{0,3}[ .-]?\d(?:[ .-]?[A-Z0-9]){4,14}(?![\w])"
)


def find_cards(text: str) -> Iterator[tuple[int, int]]:
    """Find payment cards: an issuer's range, a length that it uses, and Luhn's check digit."""
    from stdnum import luhn

    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if not _ISSUERS.fullmatch(digits) or not luhn.is_valid(digits) or len(set(digits)) < 2:
            continue
        yield match.span()


def find_ibans(text: str) -> Iterator[tuple[int, int]]:
    """Find IBANs by their country's length and check digits, in whatever groups they are set."""
    from stdnum import iban

    for match in _IBAN.finditer(text):
        for end in range(match.end(), match.start() + 14, -1):
            # Words behind the number may have been taken for a part of it.
            whole = end == len(text) or not text[end].isalnum()
            if (
                whole
                and text[end - 1].isalnum()
                and iban.is_valid(text[match.start() : end].replace(".", ""))
            ):
                yield match.start(), end
                break


def find_national_ids(text: str) -> Iterator[tuple[int, int]]:
    """Find national identity, tax and insurance numbers."""
    read = as_ascii(text)
    spoken_of = _spoken_of(read)
    yield from _NINO_SHAPE.spans(read)
    for kind, shape in _SHAPES:
        for start, end in shape.spans(read):
            if spoken_of(start) or _is_national_id(kind, text[start:end]):
                yield start, end
    for match in _ANY_ID.finditer(text):
        if spoken_of(match.start()):
            yield match.span()


def _spoken_of(text: bytes) -> Callable[[int], bool]:
    """Return what says whether the text speaks of ids just before a place."""
    ends = [end for _, end in _SPEAKS_OF_IDS.spans(text)]

    def spoken_of(start: int) -> bool:
        at = bisect_right(ends, start) - 1
        if at < 0 or start - ends[at] > _SPOKEN_WITHIN:
            return False
        return text.find(b"\n", ends[at], start) < 0

    return spoken_of


def _is_national_id(kind: NationalId, number: str) -> bool:
    if not kind.certain and not (kind.written and re.fullmatch(kind.written, number)):
        return False
    return _is_valid(kind.module, number)


@lru_cache(maxsize=4096)
def _is_valid(module: str, number: str) -> bool:
    valid: bool = import_module(f"stdnum.{module}").is_valid(number)
    return valid


_V4 = re.compile(r"(?<![\w.])\d{1,3}(?:\s?\.\s?\d{1,3}){3}(?![\w]|\.\d)")
_V6 = re.compile(
    r"(?<![\w:.])(?:[0-9a-f]{0,4}:){2,7}(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f]{0,4})(?![\w:])", re.I
)
_VERSION = re.compile(r"\b(?:version|ver\.?|release|v|build|section|chapter|clause)\s{0,2}$", re.I)

_NAME = r"[\w.@+%~-]"
_ROOTS = (
    "home|Users|root|etc|var|usr|opt|tmp|mnt|media|srv|data|dev|proc|run|lib|bin|boot|private|"
    "Volumes|Library|Applications|workspace|app|storage|nfs|backup|backups|export"
)
_POSIX = re.compile(
    rf"(?<![\w.:/<@~-])(?:~{_NAME}*/|\.{{1,2}}/(?={_NAME}+/)|/(?:{_ROOTS})/|/(?={_NAME}+/{_NAME}+/{_NAME}))"
    rf"(?:(?:{_NAME}|\\ )+/)*(?:(?:{_NAME}|\\ )*[\w~])?/?"
)
_WINDOWS = re.compile(
    r"(?<![\w])(?:[A-Za-z]:[\\/]{1,2}|\\\\[\w.$-]{1,63}\\)(?:[^\\/:*?\"<>|\r\n\t,;]{1,80}[\\/]{1,2})*"
    r"(?:[\w()$~-]+(?:[ .][\w()$~-]+){0,4}?\.[A-Za-z]\w{0,5}(?![.\w])|[\w.()$~-]+)?"
)


def find_ips(text: str) -> Iterator[tuple[int, int]]:
    """Find IPv4 and IPv6 addresses other than this machine's own and those of examples."""
    for match in _V4.finditer(text):
        version = _VERSION.search(text[max(0, match.start() - 12) : match.start()])
        if not version and _is_somewhere("".join(match[0].split())):
            yield match.span()
    for match in _V6.finditer(text):
        if _is_somewhere(match[0]):
            yield match.span()


def _is_somewhere(address: str) -> bool:
    try:
        read = ipaddress.ip_address(address)
    except ValueError:
        return False
    return not (read.is_loopback or read.is_unspecified or address.endswith("::"))


def find_paths(text: str) -> Iterator[tuple[int, int]]:
    """Find absolute and home paths of POSIX and Windows systems; addresses of pages are none."""
    for pattern in (_POSIX, _WINDOWS):
        for match in pattern.finditer(text):
            end = match.end() - (len(match[0]) - len(match[0].rstrip(" .,;:")))
            if end - match.start() >= 4:
                yield match.start(), end
