"""Postal addresses of many countries in sentences of several languages, to measure the finder by.

`looked_at` are those whose misses were read while the rules were bettered. `fresh` are of other
countries, other sentences and another hand's Chinese, drawn with a seed used once: only scored.
`harmless` are sentences of the same languages with numbers and places, and no address.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from faker import Faker

from benchmarks.private_text import Sample

LOCALES = {
    "looked_at": (
        *("cs_CZ", "hu_HU", "de_CH", "pt_PT", "ro_RO", "hr_HR", "el_GR", "en_US", "de_DE", "fr_FR"),
        *("es_ES", "pl_PL", "da_DK", "no_NO", "nl_BE", "en_NZ", "zh_CN", "zh_TW", "ja_JP", "ko_KR"),
    ),
    "fresh": (
        *("en_GB", "it_IT", "nl_NL", "sv_SE", "fi_FI", "de_AT", "en_AU", "en_CA", "es_AR", "es_CO"),
        *("fr_CH", "et_EE", "sl_SI", "lt_LT", "id_ID", "en_PH", "zh_own", "zh_own", "zh_own"),
        *("ja_JP", "ko_KR"),
    ),
}
SENTENCES = {
    "looked_at": {
        "zh": (
            *("请把包裹寄到{}。", "我住在{}", "收货地址:{}"),
            *("从车站到{}怎么走?", "公司搬到了{}"),
        ),
        "ja": ("荷物を{}に送ってください。", "住所は{}です", "勤務先: {}"),
        "ko": ("{}으로 보내 주세요.", "주소: {}"),
        "": (
            *("Ship it to {}.", "My address is {}", "Office: {}", "I moved to {} last year."),
            *("How do I get to {} by bus?", "The invoice goes to {}, please."),
        ),
    },
    "fresh": {
        "zh": (
            *("帮我写封信给住{}的房东", "快递放在{}门口了"),
            *("户籍所在地为{},现已迁出", "{}这套房子漏水怎么办?"),
        ),
        "ja": ("実家は{}にあります。", "{}宛てに請求書を書いて"),
        "ko": ("우리 집은 {}에 있어요", "{} 근처 맛집 알려줘"),
        "": (
            *("A courier is waiting outside {} right now", "Delivery for {} (ring twice)"),
            *("Rewrite this: the tenant of {} has not paid.", "Billing details\n{}\nThank you"),
            *("Could a pipe have burst at {}?", "Our flat, {}, is to let."),
        ),
    },
}
HARMLESS = {
    "looked_at": (
        *("北京市有{n3}多万人口,面积{n5}平方公里。", "地铁{n1}号线在{n2}月开通。"),
        "第{n2}号文件规定每户不超过{n1}层。",
        *("他在路上花了{n2}分钟,走了{n1}条街。", "東京都の人口は約{n4}万人です。"),
        "{n4}년 {n1}월에 서울시에서 열렸다.",
        *("Route {n2} closes at {n1} km, detour {n2} km.", "Vienna had {n6} people in {year}."),
        *("Chapter {n1}, page {n3}: Paris, {year}.", "In {year}, {n5} cars passed Main Street."),
    ),
    "fresh": (
        *("上海市{year}年新增{n3}家医院。", "请计算{n3}乘以{n2}等于多少?"),
        "这条街道长{n3}米,宽{n2}米。",
        *(
            "{n2}号选手跑完全程用了{n2}分钟。",
            "大阪市は{year}年に{n2}区あった。",
            "{n2}번 문제를 풀어 줘.",
        ),
        *(
            "Oslo and Bergen are {n3} km apart, {n1} hours by train.",
            "Room {n3} seats {n2} people.",
        ),
        *("Mount Kenya, {n4} m, was climbed in {year}.", "Table {n1}: London {n5}, Leeds {n4}."),
    ),
}


def address_samples(which: str, num: int, seed: int) -> Iterator[Sample]:
    """Yield `num` texts with an address and half as many without."""
    draw = random.Random(f"{which} {seed}")
    fakers = {name: Faker(name) for name in LOCALES[which] if name != "zh_own"}
    for faker in fakers.values():
        faker.seed_instance(draw.randrange(1 << 30))
    for _ in range(num):
        locale = draw.choice(LOCALES[which])
        value = _own_chinese(draw) if locale == "zh_own" else _faked(fakers[locale], draw)
        spoken = SENTENCES[which].get(locale[:2], SENTENCES[which][""])
        before, after = draw.choice(spoken).split("{}")
        span = (len(before), len(before) + len(value))
        yield Sample(before + value + after, "address", (span,), locale)
    for _ in range(num // 2):
        yield Sample(_filled(draw.choice(HARMLESS[which]), draw), "none", (), "none")


def _faked(faker: Faker, draw: random.Random) -> str:
    return str(faker.address()).strip().replace("\n", draw.choice((", ", "\n", ", ")))


def _own_chinese(draw: random.Random) -> str:
    """Return an address as people in China write theirs: six forms, from whole to short."""
    whole = ("北京市朝阳区", "上海市浦东新区", "广东省深圳市南山区", "四川省成都市武侯区")
    short = ("杭州市西湖区", "武汉洪山区", "西安市雁塔区", "苏州工业园区", "重庆市渝中区")
    city = draw.choice(short if draw.random() < 0.5 else whole)
    road = draw.choice(("建国", "人民南", "科技园中", "文三", "珞喻", "解放", "长安", "星湖"))
    road += draw.choice(("路", "大道", "街", "东路", "大街", "西路"))
    number, block = draw.randrange(1, 1800), draw.randrange(1, 40)
    room = f"{draw.randrange(1, 33)}{draw.randrange(1, 9):02}"
    forms: tuple[Callable[[], str], ...] = (
        lambda: f"{city}{road}{number}号",
        lambda: f"{city}{road}{number}号{block}栋{room}室",
        lambda: f"{city}{road}{number}弄{block}号{room}室",
        lambda: f"{city}{road}{number}号阳光花园{block}号楼{draw.randrange(1, 7)}单元{room}",
        lambda: f"{road}{number}号院{block}号楼",
        lambda: f"{city}{road} {number} 号 {draw.choice('ABCD')} 座 {room}",
    )
    return draw.choice(forms)()


def _filled(sentence: str, draw: random.Random) -> str:
    words = {f"n{size}": str(draw.randrange(10 ** (size - 1), 10**size)) for size in range(1, 8)}
    return sentence.format(year=draw.randrange(1850, 2030), **words)
