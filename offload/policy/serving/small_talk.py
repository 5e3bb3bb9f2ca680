"""Small talk: turns that ask nothing (greetings, thanks, goodbyes, praise) in several languages.

Such a turn has many good answers, and a model that wavers between two of them looks unsure of both.
Only whole turns made of the phrases below count: what asks something besides is none.
"""

from __future__ import annotations

import re
import unicodedata

from offload.messages import Request

_MAX_CHARS = 80
_PHRASES = (
    # English
    "hello|hi|hey|hiya|howdy|yo|greetings|good (?:morning|afternoon|evening|night|day)|"
    "welcome back|"
    "(?:how are|how re) you(?: doing)?(?: today)?|how (?:is|s) it going|how do you do|"
    "what s up|whats up|sup|(?:nice|pleased|good|great) to (?:meet|see) you|"
    "thanks?|thank you|thx|ty|many thanks|thanks? (?:a lot|a million|so much|very much|again)|"
    "cheers|"
    "much appreciated|i appreciate (?:it|that)|that (?:helped|helps|was helpful|is great|s great)|"
    "you(?: are| re) welcome|no problem|never mind|nevermind|"
    "(?:good ?)?bye|bye bye|see (?:you|ya)(?: (?:later|soon|tomorrow|around))?|take care|farewell|"
    "have a (?:nice|good|great) (?:day|evening|night|weekend|one)|"
    "great|perfect|awesome|excellent|wonderful|brilliant|amazing|cool|nice|lovely|well done|"
    "good (?:job|work|bot)|nice work|great (?:job|work)|ha(?:ha)+|lol|sorry|my apologies|"
    # German, French, Spanish, Italian, Portuguese, Dutch, Swedish, Polish
    "hallo|guten (?:tag|morgen|abend)|gute nacht|servus|moin|danke(?: (?:schon|sehr|dir|ihnen))?|"
    "vielen dank|tschuss|auf wiedersehen|bis (?:bald|morgen|spater)|"
    "bonjour|bonsoir|salut|merci(?: beaucoup| bien)?|au revoir|a bientot|"
    "bonne (?:nuit|journee|soiree)|"
    "hola|buenos dias|buenas(?: (?:tardes|noches))?|(?:muchas )?gracias|adios|"
    "hasta (?:luego|pronto)|"
    "ciao|buon ?giorno|buona ?sera|buona ?notte|grazie(?: mille)?|arrivederci|"
    "ola|bom dia|boa (?:tarde|noite)|(?:muito )?obrigad[oa]|tchau|ate (?:logo|amanha)|"
    "hoi|goede(?:morgen|middag|avond|ndag)|dank (?:je|u)(?: wel)?|bedankt|tot ziens|"
    "hej(?: hej)?|god (?:morgon|kvall)|tack(?: sa mycket)?|hej da|"
    "czesc|dzien dobry|dobry wieczor|dziekuje(?: bardzo)?|do widzenia"
)
_JOINED = (  # scripts that put no blanks between words
    "你好吗?|您好|嗨|哈喽|早上好|早安|上午好|中午好|下午好|晚上好|晚安|大家好|在吗|"
    "谢谢(?:你|您|啦|了)?|多谢(?:你|您|了)?|感谢(?:你|您)?|非常感谢|辛苦了|不客气|没关系|对不起|抱歉|"
    "再见|拜拜|回头见|明天见|太好了|太棒了|很好|真棒|哈哈+|"
    "こんにちは|こんばんは|おはよう(?:ございます)?|ありがとう(?:ございます|ございました)?|さようなら|"
    "안녕(?:하세요|히 계세요)?|감사합니다|고마워(?:요)?"
)
_FILLERS = (
    "there|again|all|everyone|everybody|friend|my friend|you|too|so much|very much|a lot|then|now|"
    "and|but|ok(?:ay)?|oh|well|for (?:that|now|your help|the help|everything)|nearfar|assistant"
)
_CORE, _FILLER = re.compile(_PHRASES), re.compile(_FILLERS)
_JOINED_CORE, _JOINED_FILLER = re.compile(_JOINED), re.compile("[啊呀呢吧了哦]|好的")
_MAX_WORDS = 7  # of one phrase
_DRAWN_OUT = re.compile(r"([^\W\d_])\1{2,}")  # hellooo


def is_small_talk(request: Request) -> bool:
    """Whether the last turn asks nothing; one that answers a question of the model's may."""
    if request.tools or request.sampling.json_schema is not None or request.prompt_token_ids:
        return False
    turns = request.messages
    if turns and turns[-1].role != "user":
        return False
    if len(turns) > 1 and turns[-2].content.rstrip().endswith(("?", "\uff1f")):
        return False
    return asks_nothing(request.last_text())


def asks_nothing(text: str) -> bool:
    """Whether a text is made of small talk only."""
    if len(text) > _MAX_CHARS:
        return False
    words, num_phrases = _plain(text).split(), 0
    while words:
        taken, is_core = _first(words)
        if not taken:
            return False
        num_phrases += is_core
        words = words[taken:]
    return num_phrases > 0


def _first(words: list[str]) -> tuple[int, bool]:
    """Return how many words the first phrase has, 0 for none, and whether it is no filler."""
    for count in range(min(_MAX_WORDS, len(words)), 0, -1):
        phrase = " ".join(words[:count])
        if _CORE.fullmatch(phrase):
            return count, True
        if _FILLER.fullmatch(phrase):
            return count, False
    return int(_is_joined(words[0])), True


def _is_joined(word: str) -> bool:
    at, num_phrases = 0, 0
    while at < len(word):
        core = _JOINED_CORE.match(word, at)
        found = core or _JOINED_FILLER.match(word, at)
        if found is None:
            return False
        num_phrases += core is not None
        at = found.end()
    return num_phrases > 0


def _plain(text: str) -> str:
    """Return small letters without accents, signs and emoji as blanks, drawn-out letters once."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    bare = "".join(c for c in unicodedata.normalize("NFD", folded) if not unicodedata.combining(c))
    joined = unicodedata.normalize("NFC", bare)
    return _DRAWN_OUT.sub(r"\1", re.sub(r"[\W_]+", " ", joined)).strip()
