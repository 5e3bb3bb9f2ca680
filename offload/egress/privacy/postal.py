"""Postal address detectors: the forms of a few countries, and of China, Japan and Korea.

Those of the three are written from the large to the small. Each is known by its end, a road or a
block with a number; what stands before it, back to the first word that belongs to the sentence, is
the province, the city and the district.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from offload.egress.privacy.linear import Pattern, as_ascii, without_long_words

_W = r"[A-Z][\w'.-]*"  # a capitalised word
_CITY = rf"{_W}(?:[ -](?:{_W}|am|an der|upon|sur|de|del|la|le|les)){{0,3}}"
_UNIT = (
    r"(?:,?\s*(?i:apt|apartment|appartamento|suite|ste|unit|flat|floor|room|rm|bldg|puerta|piso|"
    r"bloque|esc|depto|apto|casa|lote|interno|bus|etage|piano|#)\.?\s*#?\s?[\w-]{1,6})?"
)
_STATE = (
    r"(?:A[KLRZ]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|PA|RI|S[CD]|"
    r"T[NX]|UT|V[AT]|W[AIVY]|PR|AB|BC|MB|NB|NL|NS|ON|PE|QC|SK|NSW|VIC|QLD|TAS|ACT|SA|NT|"
    r"Alabama|Alaska|Arizona|Arkansas|California|Colorado|Connecticut|Delaware|Florida|Georgia|"
    r"Hawaii|Idaho|Illinois|Indiana|Iowa|Kansas|Kentucky|Louisiana|Maine|Maryland|Massachusetts|"
    r"Michigan|Minnesota|Mississippi|Missouri|Montana|Nebraska|Nevada|New \w+|North \w+|"
    r"Ohio|Oklahoma|Oregon|Pennsylvania|Rhode Island|South \w+|Tennessee|Texas|Utah|Vermont|"
    r"Virginia|Washington|Wisconsin|Wyoming)"
)
_UK_CODE = r"(?:GIR ?0AA|[A-Z]{1,2}\d[A-Z\d]? ?\d[ABD-HJLNP-UW-Z]{2})"
_CA_CODE = r"[ABCEGHJ-NPRSTVXY]\d[ABCEGHJ-NPRSTV-Z][ -]?\d[ABCEGHJ-NPRSTV-Z]\d"
_IE_CODE = r"[A-Z]\d{2} ?[A-Z\d]{4}"
_TAIL = (  # what follows a street: a unit, a city, a state, a postal code
    rf"{_UNIT}(?:,?\s+{_CITY})?(?:,?\s+{_STATE})?"
    rf"(?:,?\s+(?:\d{{5}}(?:-\d{{4}})?|{_UK_CODE}|{_CA_CODE}|{_IE_CODE}|\d{{4}}))?"
)
# The common ones in any case; the rest, which are words too, only with a capital.
_EN_KINDS = (
    r"(?i:street|st|avenue|ave|av|road|rd|boulevard|blvd|lane|ln|drive|dr|court|ct|way|place|pl|"
    r"square|sq|terrace|crescent|close)|"
    r"Ter|Parkway|Pkwy|Circle|Cir|Cres|Highway|Hwy|Grove|Mews|Gardens|Row|Alley|"
    r"Plaza|Trail|Trl|Turnpike|Walk|Path|Point|Pike|Loop|Hill|Heights|Ridge|"
    r"Manor|Villages?|Extensions?|Estates?|Ports?|Bypass|Causeway|Centers?|Common|"
    r"Corners?|Course|Crossing|Expressway|Fork|Freeway|Garden|Gateway|Glen|Green|"
    r"Haven|Island|Isle|Junction|Key|Knoll|Lake|Landing|Meadows?|Mill|Mission|"
    r"Motorway|Neck|Orchard|Oval|Overpass|Park|Pass|Passage|Pine|Plains?|Prairie|"
    r"Ramp|Ranch|Rapids?|Rest|River|Route|Run|Shoals?|Shore|Skyway|Spring|"
    r"Springs|Spur|Station|Stream|Summit|Throughway|Trace|Track|Tunnel|Underpass|"
    r"Union|Unions|Valley|Via|Viaduct|View|Vista|Wells"
)
_GERMAN_END = (
    r"(?:stra(?:ss|_)e|str\.?|weg|platz|gasse|allee|\w[b-df-hj-np-tv-zA-Z0-9_]ring|damm|ufer|steig|"
    r"markt|hof|berg)"
)
_DUTCH_END = (
    r"(?:straat|laan|weg|plein|gracht|kade|dijk|singel|hof|pad|steeg|boulevard|baan|"
    r"dreef|plantsoen|stede)"
)
_NORDIC_END = r"(?:gatan|vagen|gata|vei(?:en)?|vej|gade|katu|tie|alle|stien)"
_NUMBER = r"\d{1,5}(?: ?[a-zA-Z]\b)?(?:[-/]\d{1,4}[a-z]?)?"
_CODE_CITY = (
    rf"(?:,?\s+(?:[A-Z]{{1,2}}-)?\d{{4,5}}(?: ?[A-Z]{{2}})?,?\s+{_CITY}"
    rf"|,?\s+{_CITY}(?:,?\s+\d{{4,6}})?)?"
)
_ROMANCE = (
    r"(?:[Rr]ue|[Aa]venue|[Bb]oulevard|[Pp]lace|[Cc]hemin|[Ii]mpasse|[Aa]llee|[Qq]uai|[Cc]ours|"
    r"[Cc]alle|C/|[Cc]alle de|[Aa]venida|Av\.|Avda\.?|[Pp]laza|[Pp]aseo|[Rr]onda|[Gg]lorieta|"
    r"[Pp]asaje|[Vv]ia|[Vv]iale|[Pp]iazza|[Cc]orso|[Vv]icolo|[Ll]argo|[Cc]ontrada|[Ss]trada|[Bb]orgo|"
    r"[Rr]ua|[Tt]ravessa|[Pp]raca|[Aa]lameda|[Ll]adeira|[Vv]iela|ul\.|al\.|os\.|R\.|Tv\.|Trav\.|Av|Lg\.|"
    r"[Ss]trada|[Bb]ulevardul|[Ss]oseaua|[Aa]leea|[Cc]alea|[Dd]rumul|[Ii]ntrarea|[Ss]plaiul|"
    r"[Ll]ungo(?:tevere|mare|lago)|[Ss]alita|[Rr]otonda|[Cc]arrera|[Tt]ransversal|[Dd]iagonal)"
)
_SMALL = r"(?:de|du|des|de la|de los|de las|del|della|delle|di|da|do|dos|la|le|les|l'|d'|el|san|en)"

_NAMED = rf"(?:{_SMALL}\s*){{0,3}}{_W}(?:[ -](?:{_SMALL}\s*){{0,3}}{_W}){{0,4}}"

# Anything capitalised with a number counts as a street where a postal code and a city follow.
_ANY_STREET = rf"(?:(?:{_SMALL}|{_W}|[a-z]{{2,8}}\.?) +){{1,6}}?"
_CODE = (
    r"(?:[A-Z]{1,2}-)?"
    r"(?:\d{2}-\d{3}|\d{5}(?:-\d{3,4})?|\d{3} \d\d|\d{8}|\d{4} ?[A-Z]{2}\b)"
)
_PLACE = (
    rf"(?:'[st] ?)?(?:(?:{_SMALL}|{_W})[ ']){{0,4}}{_W}"
    r"(?:\s?(?:/ ?[A-Z]{2}|\([^()\n]{2,30}\)))?"
)
_BETWEEN = rf"{_UNIT}\s*(?:,?\s+(?:{_W}[ ]?){{1,4}})?,?\s+"

_FOUR = r"(?:[03-9]\d{3}|1[0-8]\d\d|2[1-9]\d\d)"  # no year of these centuries
_MONTHS = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)

# Romanian streets may have no number, Hungarian ones have their kind behind the name.
_EASTERN_EUROPE = (
    rf"\b(?:Strada|Bulevardul|Soseaua|Aleea|Calea|Drumul|Intrarea|Splaiul)\s+{_NAMED}[,\n]\s*"
    rf"{_PLACE},\s+\d{{6}}\b",
    rf"\b{_W}(?: [A-Za-z]\w+)? (?:utca|ut|ter|tere|koz|korut|setany|fasor|u\.) "
    rf"\d{{1,4}}(?:/[A-Za-z])?\.?[,\n]*\s*(?:H-)?\d{{4}} {_PLACE}",
)

_NO_WORD = r"[^\w-]|$"

_SHAPES = tuple(
    Pattern(pattern)
    for pattern in (
        *_EASTERN_EUROPE,
        rf"\b\d{{1,6}}[A-Za-z]?(?:-\d{{1,5}})?,? +(?:(?:[NSEW]\.?|North|South|East|West) +)?"
        rf"(?:(?:{_W}|\d{{1,3}}(?:st|nd|rd|th)) +){{1,4}}(?:{_EN_KINDS})\b\.?{_TAIL}",
        rf"\b\d{{1,6}}\s+{_W}(?:\s+{_W}){{0,3}}{_UNIT},?\s+(?:{_W}\s?){{1,4}},\s+"
        r"[A-Z]{2}\s+\d{5}\b",
        r"\b(?i:p\.?\s?o\.?\s?box|postfach|apartado|bp)\s+\d{1,7}\b" + _TAIL,
        rf"\b(?:{_W}|Unit \d+|PSC \d+)[ ,]+(?:Box \d+|{_W}),?\s+(?:[FAD]PO)\s+A[AEP]\s+\d{{5}}\b",
        rf"\b(?:{_W}[ -]){{0,3}}[A-Z]\w*{_GERMAN_END}\s+{_NUMBER}{_CODE_CITY}",
        rf"\b(?:{_W}[ -]){{0,3}}[A-Z]\w*(?:{_DUTCH_END}|{_NORDIC_END})\s+{_NUMBER}{_CODE_CITY}",
        rf"\b\d{{1,4}}(?:\s?(?:bis|ter|[A-D]))?,?\s+{_ROMANCE}\s+{_NAMED}{_CODE_CITY}",
        rf"\b{_ROMANCE}\s+{_NAMED},?\s+(?:n[o.r]{{0,2}}\s?)?{_NUMBER}{_CODE_CITY}",
        rf"\b{_ANY_STREET}{_W},?\s+{_NUMBER}{_BETWEEN}{_CODE},?\s+{_PLACE}",
        rf"\b{_ANY_STREET}{_W},?\s+{_NUMBER}{_BETWEEN}{_PLACE},\s+{_CODE}\b",
        rf"\b{_NAMED}(?:[,\n]\s*{_NAMED}){{0,2}}[,\n]\s*{_CODE}\s+{_NAMED}\s?/\s?[A-Z]{{2}}\b",
        rf"\b(?:(?:{_W}|(?i:apt|level|flat|unit|suite))\.? \d{{1,4}}[,\n]?\s*)?"
        r"(?:(?:(?i:unit|flat|apt) )?\d{1,4} ?/[ ,\n]{0,3})?"
        rf"\d{{1,5}}[A-Za-z]?[ ,]+{_W}[^\n,]{{0,40}}[,\n]\s*"
        rf"(?:[^\n,]{{2,30}}[,\n]?\s+){{0,2}}{_STATE},?\s+\d{{4}}\b",
        rf"\b(?:(?:Apt\.?|Level|Flat|Unit) \d+, )?\d{{1,5}}[A-Za-z]? {_W}(?: {_W}){{1,3}}"
        rf"[,\n]\s*(?:[\w ]{{2,20}}[,\n]\s*){{0,2}}"
        rf"{_W}(?: {_W}){{0,2}} {_FOUR}\b",
        rf"\b{_W}(?:[ -]{_W}){{0,2}},\s+{_STATE}\s+\d{{5}}(?:-\d{{4}})?\b",
    )
)
# Codes of four digits look like years: those are left out, and so are days of a month.
_DATED = Pattern(
    rf"\b(?:{_W}[ -]){{0,3}}[A-Z]\w{{3,}} \d{{1,4}}[A-Za-z]?"
    rf"(?:,?\s+{_FOUR}|\s*\n\s*\d{{4}}),?\s+{_PLACE}",
    unless=_MONTHS,
)
_POSTCODES = (
    # The lines above a full postcode, from the first that begins with a number or a flat.
    Pattern(
        rf"\b(?:(?i:flat|studio|apt|unit|suite)\s+\w{{1,5}}|\d{{1,5}}\w?)\b[^\n,]{{0,40}}[,\n]\s*"
        rf"(?:[^\n,]{{2,40}}[,\n]\s*){{0,4}}?(?:[\w -]{{0,30}}\s)?(?:{_UK_CODE}|{_CA_CODE})",
        behind=_NO_WORD,
    ),
    Pattern(_UK_CODE, before=r"^|[^\w-]", behind=_NO_WORD),
    Pattern(_CA_CODE, before=r"^|[^\w-]", behind=_NO_WORD),
)


def find_addresses(text: str) -> Iterator[tuple[int, int]]:
    """Find streets with a number, the city and code behind them, post boxes, and full postcodes."""
    if not any(character.isdigit() for character in text):
        return
    read = without_long_words(as_ascii(text))
    for shape in (*_SHAPES, _DATED, *_POSTCODES):
        yield from shape.spans(read)


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
