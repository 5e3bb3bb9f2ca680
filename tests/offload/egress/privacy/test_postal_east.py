"""Addresses in Chinese, Japanese and Korean are found whole, and numbers in such text are not."""

from __future__ import annotations

import pytest

from offload.egress.privacy.detect import detect
from offload.egress.privacy.findings import Rules

ADDRESSES = (
    *("北京市海淀区中关村大街27号院3号楼1502室", "上海市徐汇区漕溪北路398弄5号602室"),
    *("广州市天河区体育西路 191 号 B 座 3001", "建国路88号", "河北省正定县曲阳桥村12号"),
    *(
        "江苏省淑华市永川罗街I座 762328",
        "35049 台南市永安路27號之1",
        "臺北市信義區市府路1段45號8樓",
    ),
    "深圳市福田区深南大道二百号",
    *("東京都千代田区丸の内1丁目9番2号", "〒150-0002 東京都渋谷区渋谷2-24-12"),
    *("서울특별시 강남구 테헤란로 152", "부산광역시 해운대구 센텀중앙로 97, 12층"),
)
HARMLESS = (
    *(
        "解放路有3号线和5号线经过。",
        "这条路长300米,宽20米。",
        "北京地铁2号线到西直门",
        "公路1号出口",
    ),
    *("中国有34个省级行政区,其中23个省。", "请列出第2道题的3种解法。", "第3号决议"),
    *("計算は3番を解いて", "東京都の人口は約1400万人です。", "서울시 인구는 940만명이다."),
)


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("sentence", ["{}", "address: {} (thanks)"])
def test_a_whole_eastern_address_is_found(address: str, sentence: str) -> None:
    text = sentence.format(address)
    found = detect(text, Rules())
    covered = {place for each in found for place in range(each.start, each.end)}
    start = text.index(address)
    places = range(start, start + len(address))
    assert all(place in covered for place in places if text[place].isalnum()), found
    assert len(covered) <= len(address) + 1, "the sentence around it stays"


@pytest.mark.parametrize("before", ["我住在", "请把包裹寄到", "收货地址:", "明天从"])
def test_the_words_before_a_chinese_address_stay(before: str) -> None:
    (found,) = detect(f"{before}北京市海淀区中关村大街27号", Rules())
    assert (found.kind, found.start) == ("address", len(before))


@pytest.mark.parametrize("text", HARMLESS)
def test_numbers_in_eastern_text_are_no_addresses(text: str) -> None:
    assert detect(text, Rules()) == []


@pytest.mark.parametrize(
    "address",
    [
        "Unit 3/25 Smith Street, Bondi NSW 2026",
        "12/45 King William Road, Hyde Park, SA, 5061",
        "Strada Anghelina Dima, Rasnov, 564686",
        "Arany jános utca 211.\nH-5796 Baja",
        "R. de Anjos, 17, 4505-782 Angra do Heroísmo",
    ],
)
def test_more_of_europe_and_australia_is_covered_whole(address: str) -> None:
    (found,) = detect(f"my address is {address}", Rules())
    assert (found.start, found.end) == (14, 14 + len(address))


def test_a_long_text_of_the_east_costs_little_more_than_its_length() -> None:
    """A run of roads and numbers has no two readings that could be tried in turn."""
    text = "北京市海淀区中关村大街" * 400 + "路1" * 400
    assert detect(text, Rules()) == []
