"""The tokenizer of a GGUF file as tokenizer.json says it: the way back from vocabulary.py.

Byte-level BPE is kept as merges, and its text split by name; SentencePiece is kept as a score for
each token, from which the merges follow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from backbone.chat_template import DEFAULT
from backbone.errors import CheckpointError
from backbone.tokenizer import TokenizerFiles
from quantize.gguf_header import GgufHeader
from quantize.pre_tokenizers import pre_tokenizer_for
from quantize.vocabulary import SPACE, TokenType

_TEMPLATE = "tokenizer.chat_template"
# Tokens that end a turn though few files say so; llama.cpp knows them by their text as well.
_ENDS = frozenset(
    {
        *("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|im_end|>", "<|end|>", "<|endoftext|>"),
        *("<end_of_turn>", "<end_of_utterance>", "</s>", "<EOT>"),
    }
)
_BPE = {
    "type": "BPE",
    "dropout": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
}


def gguf_tokenizer(header: GgufHeader) -> TokenizerFiles:
    """Return what the file says of its tokenizer and chat templates. Raises CheckpointError."""
    said = _Said(header)
    if said.model == "gpt2":
        raw = _byte_level(said)
    elif said.model == "llama":
        raw = _sentencepiece(said)
    else:
        raise CheckpointError(
            f"{header.path.name} has a {said.model!r} tokenizer, which cannot be rebuilt here; "
            "name a folder with its tokenizer.json (--tokenizer FOLDER)"
        )
    bos, eos = said.special("bos"), said.special("eos")
    settings: dict[str, Any] = {}
    for role, number in (("bos", bos), ("eos", eos), ("unk", said.special("unknown"))):
        if number is not None:
            settings[f"{role}_token"] = said.tokens[number]
    return TokenizerFiles(
        raw=raw | {"post_processor": _before(said, bos)},
        settings=settings,
        templates=_templates(header.metadata),
        end_ids=said.ends(),
        name=header.path.name,
    )


class _Said:
    """The tokenizer's keys of a file, checked."""

    def __init__(self, header: GgufHeader) -> None:
        self._name = header.path.name
        self._metadata = header.metadata
        self.architecture = header.architecture
        self.model = str(self.key("model", "missing"))
        self.tokens: list[str] = self._texts("tokens")
        kinds = self.key("token_type") or [TokenType.NORMAL] * len(self.tokens)
        if len(kinds) != len(self.tokens):
            raise self.damaged("token_type")
        self.kinds: list[int] = kinds
        self.control = [n for n, kind in enumerate(kinds) if kind == TokenType.CONTROL]

    def key(self, name: str, default: Any = None) -> Any:
        return self._metadata.get(f"tokenizer.ggml.{name}", default)

    def _texts(self, name: str) -> list[str]:
        values = self.key(name)
        if not isinstance(values, list) or not values or not isinstance(values[0], str):
            raise self.damaged(name)
        return values

    def damaged(self, name: str) -> CheckpointError:
        return CheckpointError(
            f"the tokenizer of {self._name} cannot be rebuilt: its {name} are missing or damaged; "
            "name a folder with its tokenizer.json (--tokenizer FOLDER)"
        )

    def merges(self) -> list[list[str]]:
        pairs = [text.split(" ", 1) for text in self._texts("merges")]
        known = set(self.tokens)
        if not all(len(pair) == 2 and known.issuperset((*pair, "".join(pair))) for pair in pairs):
            raise self.damaged("merges")
        return pairs

    def scores(self) -> list[float]:
        scores = self.key("scores")
        if not isinstance(scores, list) or len(scores) != len(self.tokens):
            raise self.damaged("scores")
        return scores

    def special(self, role: str) -> int | None:
        number = self.key(f"{role}_token_id")
        return number if isinstance(number, int) and 0 <= number < len(self.tokens) else None

    def ends(self) -> frozenset[int]:
        """Return every token that ends an answer, as keys and texts tell."""
        found = {self.special(role) for role in ("eos", "eot", "eom")} - {None}
        found |= {n for n in self.control if self.tokens[n] in _ENDS}
        listed = self._metadata.get("nearfar.eos_token_ids")
        found |= set(json.loads(listed)) if isinstance(listed, str) else set()
        return frozenset(n for n in found if n is not None)

    def vocab(self) -> dict[str, int]:
        """Return the tokens' numbers; of two of the same text the first counts."""
        found: dict[str, int] = {}
        for number, text in enumerate(self.tokens):
            if self.kinds[number] != TokenType.UNUSED:
                found.setdefault(text, number)
        return found

    def added(self, *, strips_right: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
        """Return the tokens that are found in a text before it is split."""
        kinds = (TokenType.CONTROL, TokenType.USER_DEFINED)
        vocab = self.vocab()
        return [
            {
                "id": number,
                "content": text,
                "single_word": False,
                "lstrip": False,
                "rstrip": text in strips_right,
                "normalized": False,
                "special": self.kinds[number] == TokenType.CONTROL,
            }
            for number, text in enumerate(self.tokens)
            if self.kinds[number] in kinds and text and vocab[text] == number
        ]

    def puts_bos(self, default: bool) -> bool:
        return bool(self.key("add_bos_token", default))


def _byte_level(said: _Said) -> dict[str, Any]:
    name = str(said.key("pre", "default"))
    pre_tokenizer, ignore_merges = pre_tokenizer_for(name)
    model = _BPE | {
        "unk_token": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": ignore_merges,
        "vocab": said.vocab(),
        "merges": said.merges(),
    }
    byte_level = {"add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": said.added(),
        "normalizer": {"type": "NFC"} if name == "qwen2" else None,
        "pre_tokenizer": pre_tokenizer,
        "decoder": {"type": "ByteLevel", **byte_level},
        "model": model,
    }


def _sentencepiece(said: _Said) -> dict[str, Any]:
    vocab = said.vocab()
    unknown = said.special("unknown")
    normalizers: list[dict[str, Any]] = []
    if said.key("add_space_prefix", True):
        normalizers.append({"type": "Prepend", "prepend": SPACE})
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    decoders = [back, {"type": "ByteFallback"}, {"type": "Fuse"}]
    model = _BPE | {
        "unk_token": None if unknown is None else said.tokens[unknown],
        "fuse_unk": True,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": vocab,
        "merges": _merges_of(vocab, said),
    }
    return {
        "version": "1.0",
        "added_tokens": said.added(strips_right=_swallowers(said)),
        "normalizer": {"type": "Sequence", "normalizers": [*normalizers, spaces]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": model,
    }


def _merges_of(vocab: Mapping[str, int], said: _Said) -> list[list[str]]:
    """Return every pair of tokens that make a token together, the best scores first.

    SentencePiece merges whatever makes the token of the highest score; pairs of one token stand in
    the order of their parts, as transformers' converter has them.
    """
    scores, plain = said.scores(), {TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED}
    found: list[tuple[float, int, int, str, str]] = []
    for text, number in vocab.items():
        if said.kinds[number] not in plain:
            continue
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in vocab and right in vocab:
                found.append((-scores[number], vocab[left], vocab[right], left, right))
    found.sort()
    return [[left, right] for *_, left, right in found]


def _swallowers(said: _Said) -> frozenset[str]:
    """Return Phi-3's control tokens, which take the white space behind them along."""
    if "phi3" not in said.architecture:
        return frozenset()
    kept = {"<unk>", "<s>", "<|endoftext|>"}
    return frozenset(said.tokens[n] for n in said.control) - kept


def _before(said: _Said, bos: int | None) -> dict[str, Any] | None:
    """Return what puts BOS before every text, where the model wants one."""
    default = said.model == "llama" or said.key("pre") in ("llama-bpe", "llama3", "tekken")
    if bos is None or not said.puts_bos(default):
        return None
    text = said.tokens[bos]
    token = {"SpecialToken": {"id": text, "type_id": 0}}
    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [token, sequence],
        "pair": [token, sequence, token, second],
        "special_tokens": {text: {"id": text, "ids": [bos], "tokens": [text]}},
    }


def _templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    found = {
        key.removeprefix(f"{_TEMPLATE}."): text
        for key, text in metadata.items()
        if key.startswith(f"{_TEMPLATE}.") and isinstance(text, str)
    }
    if isinstance(text := metadata.get(_TEMPLATE), str):
        found[DEFAULT] = text
    return found
