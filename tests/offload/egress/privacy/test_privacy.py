"""What is found in a text and what is not, however it is written, and how it is put back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.egress.privacy.detect import detect
from offload.egress.privacy.findings import KINDS, Rules
from offload.egress.privacy.normalise import normalise
from offload.egress.privacy.placeholder_restoring import Restorer
from offload.egress.privacy.redaction import Placeholders, clear
from offload.egress.privacy.texts import texts_of
from offload.errors import SettingsError
from offload.messages import Message, Request

RULES = Rules(names=("Maria Lindqvist", "Zoë Ångström"), ip="redact", path="redact")


def found(text: str, rules: Rules = RULES) -> list[tuple[str, str]]:
    return [(each.kind, text[each.start : each.end]) for each in detect(text, rules)]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("email", "bob.o'neil+tag@mail.example.co.uk"),
        ("email", "bob (at) example dot com"),
        ("email", "bob at example dot com"),
        ("email", "b o b @ e x a m p l e . c o m"),
        ("phone", "(415) 555-2671"),
        ("phone", "+49 170 1234567"),
        ("phone", "020 7946 0958"),
        ("card", "4111 1111 1111 1111"),
        ("card", "3782-822463-10005"),
        ("iban", "DE89 3704 0044 0532 0130 00"),
        ("iban", "GB29NWBK60161331926819"),
        ("national_id", "536-22-1234"),
        ("national_id", "44051401359"),
        ("national_id", "QQ 12 34 56 C".replace("QQ", "AB")),
        ("secret", "ghp_" + "aB3" * 12),
        ("secret", "AKIAIOSFODNN7EXAMPLE"),
        ("secret", "q7Zk2Wm9Xc4Vb8Np1Rt6Ys3"),
        ("address", "221B Baker Street, London NW1 6XE"),
        ("address", "Hauptstraße 12, 10115 Berlin"),
        ("address", "12 rue de la Paix, 75002 Paris"),
        ("name", "Maria Lindqvist"),
        ("name", "zoe angstrom"),
        ("name", "M a r i a Lindqvist"),
        ("name", "Lindqvist, Maria"),
        ("ip", "192.168.1.20"),
        ("ip", "2001:db8::8a2e:370:7334"),
        ("path", "/home/bob/notes.txt"),
        ("path", r"C:\Users\bob\notes.txt"),
    ],
)
def test_private_things_are_found_whole(kind: str, value: str) -> None:
    assert (kind, value) in found(f"well, {value} it is") or (kind, value) in found(
        f"{value}\nis it"
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "".join(chr(ord(c) + 0xFEE0) if c.isalnum() else c for c in text),
        lambda text: "\u200b".join(text),
        lambda text: text.translate(str.maketrans("aeopc", "\u0430\u0435\u043e\u0440\u0441")),
        lambda text: text.replace("1", "\u0661"),  # an Arabic-Indic digit
        lambda text: text.replace(" ", "\u00a0").replace("-", "\u2011"),
    ],
)
@pytest.mark.parametrize(
    ("kind", "value"), [("email", "bob@example.com"), ("card", "4111 1111 1111 1111")]
)
def test_no_way_of_writing_hides_a_value(kind: str, value: str, change: object) -> None:
    written = change(value)  # type: ignore[operator]
    assert found(f"see {written} now") == [(kind, written)]


@pytest.mark.parametrize(
    "text",
    [
        "Janet's ducks lay 16 eggs per day; she eats 3 and sells the rest for $2 each.",
        "Order 48213377 was placed on 2024-05-17, total 129.90 euros.",
        "Commit 9fceb02d0ae598e95dc970b74767f19372d61af8 broke the build.",
        "The id is 123e4567-e89b-12d3-a456-426614174000.",
        "Python, release 3.11.4.2, version 10.0.19045.3803, kernel 6.8.0-45-generic",
        "We meet at example.com headquarters; the password is required.",
        "and/or, km/h, 1/2, https://docs.python.org/3/library/re.html#re.compile",
        "4111 1111 1111 1112 fails Luhn's check",
        "DE89 3704 0044 0532 0130 01 has wrong check digits",
        "git clone git@github.com:owner/project.git",
    ],
)
def test_harmless_texts_stay_whole(text: str) -> None:
    assert found(text) == []


def test_overlapping_findings_become_one_of_the_strictest_fate() -> None:
    rules = Rules(names=("Maria Lindqvist",), path="block", name="redact")
    assert found("open /home/Maria Lindqvist/a.txt", rules)[0][0] in ("path", "name")
    text = "see /home/maria_lindqvist/a.txt"
    assert found(text, rules) == [("path", "/home/maria_lindqvist/a.txt")]
    allowed = Rules(names=("Maria Lindqvist",), path="allow")
    assert found(text, allowed) == [("name", "maria_lindqvist")]


def test_a_rule_that_is_none_is_refused_with_the_choices() -> None:
    with pytest.raises(SettingsError, match="block, redact, allow, ask"):
        Rules(email="hide")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="US,DE"):
        Rules(countries=("germany",))


def test_a_value_named_once_is_replaced_wherever_it_is_repeated() -> None:
    messages = (
        Message(role="user", content="my phone number is 5550123"),
        Message(role="assistant", content="5550123 is noted"),
        Message(role="user", content="is 5550123 odd?"),
    )
    texts = texts_of(clear(Request(messages=messages), RULES).request)
    assert not any("5550123" in text for text in texts)
    assert sum(text.count("[PHONE_1]") for text in texts) == 3


def test_a_placeholder_that_the_text_already_holds_is_not_used_again() -> None:
    cleared = clear(Request(prompt="what is [EMAIL_1], and who is bob@example.com?"), RULES)
    assert cleared.request.prompt == "what is [EMAIL_1], and who is [EMAIL_2]?"


def test_the_same_value_in_another_spelling_keeps_its_placeholder() -> None:
    placeholders = Placeholders()
    first = placeholders.of("card", "4111 1111 1111 1111")
    assert placeholders.of("card", "4111111111111111") == first
    assert placeholders.of("card", "5500000000000004") != first


ORIGINALS = {"[EMAIL_1]": "bob@example.com", "[EMAIL_12]": "amy@example.org", "[ID_1]": "X1"}


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("[EMAIL_1]", "bob@example.com"),
        ("Write to [EMAIL_12].", "Write to amy@example.org."),
        ("email_1 and Email_12!", "bob@example.com and amy@example.org!"),
        ("[email 1]", "bob@example.com"),
        ("**[EMAIL-1]**", "**bob@example.com**"),
        (r"\[EMAIL\_1\]", "bob@example.com"),
        ("(EMAIL_1)", "(bob@example.com)"),
        ("[EMAIL_7] was never ours", "[EMAIL_7] was never ours"),
        ("email 1 and email 12 of my list", "email 1 and email 12 of my list"),
        ("VALID_1 is a word", "VALID_1 is a word"),
        ("an array[1] and [E", "an array[1] and [E"),
    ],
)
def test_placeholders_are_put_back_however_they_are_cut(said: str, read: str) -> None:
    for size in range(1, len(said) + 1):
        restorer = Restorer(ORIGINALS)
        pieces = [restorer.feed(said[at : at + size]) for at in range(0, len(said), size)]
        assert "".join((*pieces, restorer.end())) == read, size


def test_text_that_cannot_become_a_placeholder_is_not_held_back() -> None:
    restorer = Restorer(ORIGINALS)
    assert restorer.feed("Hello there, ") == "Hello there, "
    assert restorer.feed("[EM") == ""
    assert restorer.feed("phasis]") == "[EMphasis]"


@settings(max_examples=200)
@given(st.text(max_size=200), st.integers(1, 20))
def test_an_answer_without_placeholders_comes_through_unchanged(text: str, size: int) -> None:
    restorer = Restorer({"[SECRET_1]": "never"})
    pieces = [restorer.feed(text[at : at + size]) for at in range(0, len(text), size)]
    assert "".join((*pieces, restorer.end())) == text or "secret" in text.lower()


@settings(max_examples=200)
@given(st.text(max_size=200))
def test_findings_lie_apart_within_any_text(text: str) -> None:
    at = 0
    for each in detect(text, RULES):
        assert at <= each.start < each.end <= len(text)
        at = each.end


@settings(max_examples=200)
@given(st.text(max_size=100))
def test_every_normalised_character_has_its_origin(text: str) -> None:
    read = normalise(text)
    assert len(read.text) == len(read.starts) == len(read.ends)
    assert list(read.starts) == sorted(read.starts)
    assert all(start < end for start, end in zip(read.starts, read.ends, strict=True))


def test_every_kind_has_a_setting_and_a_detector() -> None:
    from offload.config.settings import PrivacySettings
    from offload.egress.privacy.detect import DETECTORS

    assert set(DETECTORS) | {"person", "place"} == set(KINDS)  # those two by one model
    assert PrivacySettings().rules() == Rules()
    said = PrivacySettings(email="block", names="Maria Lindqvist, Acme", countries="DE,US")
    assert said.rules().names == ("Maria Lindqvist", "Acme") and said.rules().email == "block"
    with pytest.raises(SettingsError):
        PrivacySettings(email="hide")


def test_nothing_in_the_redacted_text_is_found_again() -> None:
    text = "bob@example.com, 4111 1111 1111 1111, DE89 3704 0044 0532 0130 00, Maria Lindqvist"
    cleared = clear(Request(prompt=text), RULES).request.prompt or ""
    assert found(cleared) == [] and cleared == "[EMAIL_1], [CARD_1], [IBAN_1], [NAME_1]"
