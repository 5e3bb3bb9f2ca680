"""Postal addresses written from the large to the small: Chinese, Japanese and Korean.

Each is known by its end, a road or a block with a number; what stands before it, back to the first
word that belongs to the sentence, is the province, the city and the district.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from offload.egress.privacy.linear import Pattern

_HAN = r"\u4e00-\u9fff\u3005"
_KANA = r"\u3040-\u30ff"
_JAMO = "\u1100-\u11ff"  # Hangul is read as the letters it is made of
_N = r"[0-9\u3007一二三四五六七八九十百]{1,6}"
_NOT_HOUSE = r"(?!线|線|文件|文|选手|選手|出口|令|球|机|車|车|店员)"

_CHINESE = re.compile(
    rf"(?:大道|大街|胡同|公路|路|街|巷|道)(?: ?{_N}段)?(?: ?{_N}巷)?(?: ?{_N}弄)?"
    rf" ?(?:{_N}(?:[-之]{_N})?(?: ?[号號]{_NOT_HOUSE}|(?=弄))|[A-Za-z] ?座)"
    rf"|(?:村|屯|庄|里|社区){_N} ?(?:[号號组組]){_NOT_HOUSE}"
)
_BUILDING = re.compile(
    rf"[ ,]?(?:[-之]{_N}|院|[{_HAN}]{{2,8}}?(?:花园|花園|小区|社区|大厦|大廈|公寓|广场|家园|苑)"
    rf"|{_N}弄|(?:{_N}|[A-Za-z])(?:-{_N})? ?"
    r"(?:号楼|號樓|号|號|栋|棟|幢|座|单元|單元|楼|樓|层|層|室|房|户|戶|组|組|门)"
    r"|(?<![0-9])[A-Za-z]?-?\d{3,4}(?![\d年月日元个万亿米人]))"
)
_CODE_BEHIND = re.compile(r"[ ,]{1,2}\d{5,6}(?!\d)")
_BEFORE_CHINESE = re.compile(rf"(?:(?<!\d)\d{{3,6}} ?)?[{_HAN}]{{1,30}}[{_HAN}0-9 ]{{0,8}}$")
_SENTENCE_CHINESE = re.compile(
    "寄到|住在|位于|搬到了?|送到|地址|包裹|在|到|寄|给|给|为|從|从|往|是|的|住|把|去|至|请"
)

_JAPANESE = re.compile(
    rf"(?<=[{_HAN}{_KANA}]){_N}(?:丁目(?:{_N})?(?:番地?|-)?(?:の|-)?(?:{_N}号?)?|番地?(?:の?{_N}号?)?|(?:-\d{{1,4}}){{1,3}}(?:号)?)"
    rf"(?: ?[{_HAN}{_KANA}]{{2,16}}?\d{{1,4}}(?:号室)?)?"
)
_BEFORE_JAPANESE = re.compile(rf"(?:〒? ?\d{{3}}-\d{{4}} ?)?[{_HAN}{_KANA}]{{2,28}}$")
_SENTENCE_JAPANESE = re.compile(r"[をはへ]|住所|勤務先")
_AREA_JAPANESE = re.compile(r"[都道府県市区郡町村]")


def _jamo(text: str) -> str:
    return unicodedata.normalize("NFKD", text)


_AREA_KOREAN = _jamo("(?:특별자치도|특별자치시|특별시|광역시|도|시|군|구|읍|면|동)")
_STREET_KOREAN = _jamo("(?:대로|로|길|거리|가)")
_KOREAN = Pattern(
    rf"(?:[{_JAMO}]{{2,20}}{_AREA_KOREAN} ){{1,4}}[{_JAMO}]+?\d{{0,4}}[{_JAMO}]*{_STREET_KOREAN}"
    rf"(?:\d{{1,4}}{_STREET_KOREAN})? ?(?:{_jamo('지하')} ?)?\d{{1,4}}(?:-\d{{1,4}})?"
    rf"(?:,? ?\d{{1,4}}{_jamo('(?:동|호|층)')}){{0,3}}(?: ?\([{_JAMO}\d ,]{{2,60}}\))?"
)
_WORTH_A_LOOK = re.compile(
    rf"[0-9A-Za-z\u3007一二三四五六七八九十百] ?[号號弄座组組丁番-]|[{_JAMO}] ?\d"
)


def find_eastern_addresses(text: str) -> Iterator[tuple[int, int]]:
    """Find addresses in Chinese, Japanese and (decomposed) Korean text."""
    if text.isascii() or not _WORTH_A_LOOK.search(text):
        return
    for match in _CHINESE.finditer(text):
        start = _start(text, match.start(), _BEFORE_CHINESE, _SENTENCE_CHINESE)
        if start < match.start():
            yield start, _chinese_end(text, match.end())
    for match in _JAPANESE.finditer(text):
        start = _start(text, match.start(), _BEFORE_JAPANESE, _SENTENCE_JAPANESE)
        if _AREA_JAPANESE.search(text, start, match.start()):
            yield start, match.end()
    yield from _KOREAN.wide_spans(text)


def _start(text: str, at: int, before: re.Pattern[str], sentence: re.Pattern[str]) -> int:
    """Return where the words before a road belong to the address and no more to the sentence."""
    window = max(0, at - 48)
    found = before.search(text[window:at])
    if found is None:
        return at
    start = window + found.start()
    return max([start, *(match.end() for match in sentence.finditer(text, start, at))])


def _chinese_end(text: str, end: int) -> int:
    while (found := _BUILDING.match(text, end)) is not None:
        end = found.end()
    code = _CODE_BEHIND.match(text, end)
    return code.end() if code else end
