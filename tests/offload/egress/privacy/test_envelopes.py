"""Addresses of countries of which the detectors know no word: found by their shape."""

from __future__ import annotations

import pytest

from offload.egress.privacy.detect import detect
from offload.egress.privacy.findings import Rules

ADDRESSES = (
    "Vodičkova 681/14, 110 00 Praha 1",
    "Kossuth Lajos utca 12.\nH-1055 Budapest",
    "Trg bana Jelačića 4b, 10000 Zagreb",
    "Jl. Kebon Sirih No. 17, Jakarta Pusat, DKI 10340",
    "H.No. 53, Jayaraman Circle, Coimbatore-641018",
    "Av. Corrientes N° 1543 Piso 3, Bariloche 8400, Río Negro",
    "Carrera 7 # 71-21, Oficina 52, 110231, Bogotá, Cundinamarca",
    "Ermou 21-29,, TK 105 63 Athina",
    "Atatürk Caddesi 25, 35210 Konak/İzmir",
    "Pärnu maantee 10\n10148 Tallinn",
    "Rua do Ouro, S/N, 1100-063 Lisboa",
    "House No. 32, Lake Road, Gulshan, Dhaka 1212",
    "12 Kildare Street, D02 X285 Dublin",
    "г. Тверь, ул. Садовая, д. 13, кв. 7, 170100",  # noqa: RUF001
)
HARMLESS = (
    "Chapter 3, verse 16: the passage was written in 1905, London says.",
    "A. 36000\nB. 33000\nC. 3000 Hz\nD. 2167 Hz",
    "Apollo 11 landed in July 1969, and Apollo 17 in December 1972.",
    "Symphony No. 5, 1808 Vienna; Symphony No. 9, 1824 Vienna.",
    "On May 8, 1945 Germany surrendered; Berlin had 4300000 people in 1939.",
    "Model X 12, price 34999, colour Red, doors 5, seats 5.",
    "Score: Lakers 101, Bulls 99, attendance 18997 people.",
    "Section 12, paragraph 4 of Regulation 2016/679 applies to Article 6.",
)


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_whole_address_is_found_wherever_it_is_from(address: str) -> None:
    text = f"please send it to {address} by tomorrow"
    covered = {place for each in detect(text, Rules()) for place in range(each.start, each.end)}
    start = text.index(address)
    missed = [
        text[place]
        for place in range(start, start + len(address))
        if text[place].isalnum() and place not in covered
    ]
    assert not missed, "".join(missed)


@pytest.mark.parametrize("text", HARMLESS)
def test_names_with_numbers_are_no_address(text: str) -> None:
    assert not [each for each in detect(text, Rules()) if each.kind == "address"]


@pytest.mark.parametrize("piece", ["A 1, ", "Ab ", "1 ", "Ab 1\n", "ab. Cd, "])
def test_a_long_text_is_searched_in_bounded_time(piece: str) -> None:
    assert detect(piece * 20_000, Rules()) is not None
