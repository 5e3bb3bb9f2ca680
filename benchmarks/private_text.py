"""Texts with private things in known places, and texts with none, to measure the detectors by.

The detectors were written before this file and without it: the values come from Faker, the
sentences are other ones. There are two sets, of other locales and other sentences. Misses of the
first may be looked at to better the rules; the second is only ever scored.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from faker import Faker

LOCALES = {
    "seen": (
        *("en_US", "de_DE", "fr_FR", "es_ES", "pl_PL", "pt_BR"),
        *("da_DK", "nl_BE", "no_NO", "en_NZ", "fr_CA", "en_IE"),
    ),
    "unseen": ("en_GB", "en_CA", "it_IT", "nl_NL", "sv_SE", "fi_FI", "de_AT", "en_AU"),
}
PER_KIND = {
    "email": (
        "Could you write a polite reminder to {}?",
        "The invoice bounced from {} twice this week.",
        "cc: {}; subject: minutes",
        "Contact person is reachable under {} until Friday.",
        "Please add {} to the list and drop the old one",
        "login={} role=editor",
        "I got spam from {}!",
        "<p>Author: {}</p>",
    ),
    "phone": (
        "My phone number is {}, but I rarely pick up.",
        "Call {} before noon.",
        "Tel. {}",
        "You can text me on {} any time",
        "Draft an SMS to {} saying I am late",
        "The clinic's line {} is busy, phone again later.",
        "mobile: {} (evenings)",
        "Ring the plumber: {}",
    ),
    "card": (
        "Charge {} for the hotel.",
        "my visa is {} and it expires next May",
        "card no {}",
        "Is {} a valid number for a payment?",
        "They asked me to read out {} on the call",
        "PAN={}",
        "Refund to {}, please",
        "I typed {} and it was declined",
    ),
    "iban": (
        "Transfer 300 euros to {}.",
        "IBAN: {}",
        "our account {} was closed",
        "Please check whether {} belongs to us",
        "Send the deposit to {}, reference 12.",
        "bank details {} BIC unknown",
        "I pay rent into {} each month",
        "Konto: {}",
    ),
    "national_id": (
        "My social security number is {}.",
        "tax id {}",
        "The form wants the national ID: {}",
        "Is my personal number {} written correctly?",
        "Applicant, ID number {}, born in spring",
        "SSN {} needs to be corrected on the letter",
        "identity card {} (copy attached)",
        "passport or personal id: {}",
    ),
    "secret": (
        "export API_KEY={}",
        "my password is {} and it does not work",
        "Why does curl -H 'Authorization: Bearer {}' return 401?",
        'config = {{"token": "{}"}}',
        "The deploy key {} was pushed by mistake",
        "secret: {}",
        "I lost the access token {}, can I get it back?",
        "client_secret = '{}'",
    ),
    "address": (
        "Ship it to {}.",
        "I live at {} with two cats",
        "Our new office: {}",
        "Directions from the station to {}?",
        "The package for {} came back.",
        "Meet me at {} at eight",
        "Write a complaint letter, sender {}",
        "registered seat: {}",
    ),
    "name": (
        "Tell {} that the meeting moved.",
        "What should I give {} for her birthday?",
        "{} wrote the first chapter.",
        "Minutes taken by {}, approved later",
        "I am {} and I need a cover letter",
        "A reference letter about {}, two paragraphs.",
        "Signed, {}",
        "Did {} ever answer?",
    ),
    "ip": (
        "The server {} does not answer pings.",
        "ssh into {} fails",
        "Block {} in the firewall",
        "host={} port=5432",
        "My router at {} restarts",
        "Traffic from {} doubled",
        "Why is {} in my logs?",
        "peer {} timed out",
    ),
    "path": (
        "Open {} and fix the typo.",
        "rm {} says permission denied",
        "The file {} is missing",
        "I saved it under {} yesterday",
        "FileNotFoundError: {}",
        "diff {} with the backup",
        "mount {} failed",
        "Where does {} come from?",
    ),
}
# Nothing here is private, though much looks like it.
HARMLESS = (
    "Janet's ducks lay {n2} eggs per day. She eats {n1} and sells the rest for ${n1}. How much?",
    "Order {n8} was placed on {date} and has {n2} items, total {n3}.{n2} euros.",
    "Python {n1}.{n2}.{n1} introduced this in release {n1}.{n1}.{n2}.{n1}?",
    "Commit {hex40} broke the build; revert to {hex7}.",
    "The session id in the docs is {uuid}, as an example.",
    "ISBN 978-3-16-148410-0 and ISBN 0-306-40615-2 are both in stock.",
    "Solve {n3} * x + {n2} = {n5} for x, then compute {n4}^2 mod {n3}.",
    "Between {year}-{year} the population rose from {n6} to {n7}.",
    "The flight leaves at {n2}:45 from gate B{n1} on {date}, seat {n2}C.",
    "At 52.5200, 13.4050 the temperature was {n2}.{n1} degrees.",
    "What is the capital of Australia, and how far is it from Perth in km ({n4})?",
    "Translate 'the password is required' into French.",
    "Explain the difference between a token and a word in a language model.",
    "def add(a, b):\n    return a + b  # see section 3.2.1.{n1}",
    "The speed of light is 299792458 m/s, Avogadro's number 6.02214076e23.",
    "Meet you at the corner of the main road at five, bring {n1} chairs.",
    "Pi is 3.14159265358979323846 and e is 2.71828182845904523536.",
    "Score: {n2}-{n2}, {n1}-{n1}; attendance {n5}.",
    "SKU {n4}-{n4} costs ${n2}.99, SKU AB-{n5} costs ${n3}.00",
    "and/or, he/she, km/h, 1/2, 24/7, TCP/IP, read/write",
    "import numpy as np; x = np.random.rand({n3}, {n2}); print(x.mean(axis=0))",
    "The getUserAccountBalanceFromServer method calls fetchRemoteConfigurationV2.",
    "SHA-256 of the empty string: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "Version 2024.{n2}.{n1} (build {n6}), kernel 6.{n1}.{n1}-{n2}-generic",
    "Invoice no. {n6}/{year}, customer {n5}, due {date}",
    "Which of these primes is largest: 104729, 1299709, 15485863?",
    "See https://docs.python.org/3/library/re.html#re.compile and http://example.com/a/b/c",
    "A recipe: {n3} g flour, {n3} ml milk, {n1} eggs, 180 C for {n2} minutes.",
    "Timestamp {n10}, epoch in ms {n10}123, duration 00:0{n1}:{n2}.{n3}",
    "Convert 0x{hex7} to decimal and 1{n5}01b to hex.",
    "He ran 100 m in 9.58 s, 200 m in 19.19 s and 400 m in 43.03 s in {year}.",
    "In chapter {n2}, verse {n1}, the author speaks of way and place.",
)
CHANGES = ("wide", "invisible", "lookalike", "spaced", "upper")
_LOOKALIKE = str.maketrans(
    "aeopcxyAEOPCTHKMB",
    "\u0430\u0435\u043e\u0440\u0441\u0445\u0443\u0410\u0415\u041e\u0420\u0421\u0422\u041d\u041a\u041c\u0412",
)


@dataclass(frozen=True)
class Sample:
    """A text; `spans` are the private stretches in it, all of `kind`."""

    text: str
    kind: str
    spans: tuple[tuple[int, int], ...]
    change: str
    names: tuple[str, ...] = ()


def samples(which: str, num_per_kind: int, seed: int) -> Iterator[Sample]:
    """Yield samples of every kind, and as many harmless texts as of one kind."""
    draw = random.Random(f"{which} {seed}")
    fakers = {locale: Faker(locale) for locale in LOCALES[which]}
    for faker in fakers.values():
        faker.seed_instance(draw.randrange(1 << 30))
    for kind, sentences in PER_KIND.items():
        mine = sentences[0::2] if which == "seen" else sentences[1::2]
        for _ in range(num_per_kind):
            locale = draw.choice(LOCALES[which])
            value = _VALUES[kind](fakers[locale], locale, draw)
            yield _placed(kind, value, draw.choice(mine), draw)
    mine = HARMLESS[0::2] if which == "seen" else HARMLESS[1::2]
    for _ in range(num_per_kind):
        yield Sample(_filled(draw.choice(mine), draw), "none", (), "none")


def _placed(kind: str, value: str, sentence: str, draw: random.Random) -> Sample:
    change = draw.choice(CHANGES) if draw.random() < 0.4 else "none"
    written = changed(value, kind, change, draw)
    change = change if written != value else "none"
    before, after = sentence.format("\0").split("\0")
    names = (value,) if kind == "name" else ()
    span = (len(before), len(before) + len(written))
    return Sample(before + written + after, kind, (span,), change, names)


def changed(value: str, kind: str, change: str, draw: random.Random) -> str:
    """Return a value as somebody might write it to slip it past a filter."""
    if change == "wide":
        return "".join(
            chr(ord(c) + 0xFEE0) if "!" <= c <= "~" and c.isalnum() else c for c in value
        )
    if change == "invisible":
        at = draw.randrange(1, len(value))
        return value[:at] + draw.choice("\u200b\u200d\u2060\u00ad") + value[at:]
    if change == "lookalike" and kind in ("email", "name", "iban"):
        return value.translate(_LOOKALIKE)
    if change == "spaced" and kind in ("card", "iban"):
        groups = draw.choice((2, 3, 4))
        bare = value.replace(" ", "")
        joint = draw.choice((" ", "-", "\u2009", "\u00a0"))
        return joint.join(bare[at : at + groups] for at in range(0, len(bare), groups))
    if change == "spaced" and kind == "email":
        return value.replace("@", draw.choice((" (at) ", " [at] ", " @ ")))
    if change == "spaced" and kind == "name":
        return " ".join(" ".join(part) for part in value.split())
    if change == "upper" and kind in ("email", "name", "iban"):
        return value.upper()
    return value


def _national_id(faker: Faker, locale: str, draw: random.Random) -> str:
    return str(faker.ssn())


def _secret(faker: Faker, locale: str, draw: random.Random) -> str:
    base62 = string.ascii_letters + string.digits

    def word(length: int, letters: str = base62) -> str:
        return "".join(draw.choices(letters, k=length))

    forms: tuple[Callable[[], str], ...] = (
        lambda: word(32),
        lambda: word(44),
        lambda: "ghp_" + word(36),
        lambda: "sk-" + word(48),
        lambda: "AKIA" + word(16, string.ascii_uppercase + string.digits),
        lambda: word(40, "0123456789abcdef"),
        lambda: faker.password(length=draw.randrange(9, 16)),
        lambda: f"eyJ{word(20)}.eyJ{word(40)}.{word(43)}",
        lambda: word(32, base62 + "-_"),
    )
    return draw.choice(forms)()


def _address(faker: Faker, locale: str, draw: random.Random) -> str:
    return str(faker.address()).replace("\n", draw.choice((", ", "\n", ", ")))


def _ip(faker: Faker, locale: str, draw: random.Random) -> str:
    return str(draw.choice((faker.ipv4_public, faker.ipv4_private, faker.ipv6))())


def _path(faker: Faker, locale: str, draw: random.Random) -> str:
    user = faker.user_name()
    windows = "C:\\Users\\" + user + "\\" + faker.file_name()
    home = f"/home/{user}/{faker.file_name()}"
    return str(draw.choice((faker.file_path(depth=3), home, f"~/{faker.file_name()}", windows)))


_VALUES: dict[str, Callable[[Faker, str, random.Random], str]] = {
    "email": lambda faker, *_: str(faker.email()),
    "phone": lambda faker, *_: str(faker.phone_number()),
    "card": lambda faker, *_: str(faker.credit_card_number()),
    "iban": lambda faker, *_: str(faker.iban()),
    "national_id": _national_id,
    "secret": _secret,
    "address": _address,
    "name": lambda faker, *_: f"{faker.first_name()} {faker.last_name()}",
    "ip": _ip,
    "path": _path,
}


def _filled(sentence: str, draw: random.Random) -> str:
    def number(length: int) -> str:
        return str(draw.randrange(10 ** (length - 1), 10**length))

    def hexes(length: int) -> str:
        return "".join(draw.choices("0123456789abcdef", k=length))

    words = {f"n{length}": number(length) for length in range(1, 11)}
    date = f"{draw.randrange(1950, 2030)}-{draw.randrange(1, 13):02}-{draw.randrange(1, 29):02}"
    uuid = "-".join(map(hexes, (8, 4, 4, 4, 12)))
    year = str(draw.randrange(1800, 2030))
    return sentence.format(date=date, uuid=uuid, year=year, hex7=hexes(7), hex40=hexes(40), **words)
