"""Tokenizer: text to token ids and back to exact bytes, around the `tokenizers` library.

A raw prompt is the model's own language: "<|end|>" in it is the token of that name, as transformers
and llama.cpp read it. In messages only the chat template may write control tokens: what a person
typed is plain text there, so "<|end|>" in a question is seven characters and never ends a turn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from backbone.chat_template import choose_template, prepare, read_templates, render
from backbone.checkpoint import read_json
from backbone.control_tokens import ANSWER_MARKS, FILL_MARKS, NO_FILL_MARKS
from backbone.errors import CheckpointError, MissingExtra, RequestError
from backbone.text_stream import token_texts

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = re.compile(r"\s*")
_SENTINELS = range(0xF0000, 0xF0800)  # supplementary private use: no font, no meaning


@dataclass(frozen=True, kw_only=True)
class TokenizerFiles:
    """What a model's files say of its tokenizer: a folder's, or what a GGUF file holds of them."""

    raw: dict[str, Any]  # tokenizer.json
    settings: dict[str, Any]  # tokenizer_config.json
    templates: dict[str, str]  # by name
    end_ids: frozenset[int]  # that end an answer, beside the tokenizer's own
    name: str  # for messages

    @classmethod
    def of_folder(cls, folder: Path) -> TokenizerFiles:
        """Read a folder's. Raises CheckpointError."""
        raw = _read_tokenizer(folder)
        settings = read_json(folder / "tokenizer_config.json")
        return cls(
            raw=raw,
            settings=settings,
            templates=read_templates(folder, settings),
            end_ids=eos_ids(folder, None),
            name=str(folder / "tokenizer.json"),
        )


class Tokenizer:
    """One checkpoint's tokenizer, its end tokens and its chat template."""

    def __init__(self, source: Path | TokenizerFiles) -> None:
        """Read a folder's `tokenizer.json` and settings, or take them. Raises CheckpointError."""
        files = source if isinstance(source, TokenizerFiles) else TokenizerFiles.of_folder(source)
        self._raw = files.raw
        self._settings = files.settings
        self._encoder = _build(self._raw, files.name)
        # A piece after a control token gets no leading space where only the first one does.
        later = _without_first_prefix(self._raw)
        self._later = self._encoder if later == self._raw else _build(later, files.name)
        added = self._raw.get("added_tokens") or []
        self._added = {token["id"]: token for token in added}
        # A control token of one character could not be told from text; no model has one.
        self._control = {
            t["content"]: t["id"] for t in added if t.get("special") and len(t["content"]) > 1
        }
        self.vocab_size = self._encoder.get_vocab_size()
        self.max_token_id = max(self._encoder.get_vocab().values(), default=-1)
        own_end = self._control.get(self._token("eos_token"))
        self.eos_token_ids = files.end_ids | ({own_end} if own_end is not None else frozenset())
        self._templates = files.templates
        self._bytes: dict[int, bytes] = {}

    def encode(self, text: str, *, answer_prefix: str = "", add_special: bool = True) -> list[int]:
        """Return the ids of a raw prompt, and of how its answer begins already.

        Before them stands what the model puts before every text (BOS), unless the text begins so
        or none of it is wanted.
        Nothing is put behind, whatever the model puts there (EOS): it is to go on. Control tokens
        are read in the prompt, and are plain text in the answer's beginning.
        """
        sentinel = _unused_sentinel([text, answer_prefix])
        ids = self._encode_parsed(text + self._disarmed(answer_prefix, sentinel), sentinel)
        before = self._before if add_special else []
        return ids if before and ids[: len(before)] == before else before + ids

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of a text that is no prompt, behind BOS; all of it is plain text."""
        return self._before + self._encode_plain(text, "", first=True)

    def encode_around(self, prefix: str, suffix: str) -> list[int]:
        """Return the ids that ask for what stands between two texts, in the model's own marks.

        The order is prefix, suffix, middle (PSM of Bavarian et al., arXiv 2207.14255). Raises
        RequestError where the model has no such marks.
        """
        known = {token["content"]: token["id"] for token in self._added.values()}
        marks = next((m for m in FILL_MARKS if all(mark in known for mark in m)), None)
        if marks is None:
            raise RequestError(NO_FILL_MARKS)
        before, behind, between = (known[mark] for mark in marks)
        ids = [*self._before, before, *self._encode_plain(prefix, "", first=False)]
        ids += [behind, *self._encode_plain(suffix, "", first=False)]
        return [*ids, between]

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        answer_prefix: str = "",
        options: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Return the ids of a conversation under the model's chat template, and of how the answer
        begins already.

        Raises CheckpointError where the model has no template, TemplateRefusal where it refuses the
        messages.
        """
        template = self.template_for(tools)
        if template is None:
            raise CheckpointError(
                "this model has no chat template; ask it with a plain prompt instead of messages"
            )
        sentinel = _unused_sentinel([messages, tools, answer_prefix, dict(options or {})])
        text = render(
            template,
            self._disarmed(list(messages), sentinel),
            tools=self._disarmed(list(tools), sentinel),
            special_tokens=self._special_tokens,
            options=self._disarmed(dict(options or {}), sentinel),
        ).text
        return self._encode_parsed(text + self._disarmed(answer_prefix, sentinel), sentinel)

    @property
    def chat_template(self) -> str | None:
        """Return the template of conversations without tools, None where the model has none."""
        return self.template_for(())

    def template_for(self, tools: Sequence[Any]) -> str | None:
        """Return the template of conversations with these tools, None where there is none."""
        return choose_template(self._templates, tools=bool(tools))

    def prepare_chat(self) -> None:
        """Start what renders the chat template, for whoever will need it; waits for nothing."""
        if self.chat_template is not None:
            prepare(self.chat_template)

    def to_json(self) -> str:
        """Return the tokenizer as the text of a `tokenizer.json`."""
        return json.dumps(self._raw)

    def written(self, tokens: Iterable[int]) -> str:
        """Return the text of the tokens, control tokens as they are written."""
        added = self._added
        whole = b"".join(
            str(added[token]["content"]).encode() if token in added else self.token_bytes(token)
            for token in tokens
        )
        return whole.decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """Return the exact bytes that one token adds to the text.

        Control tokens add none but those of TOLD_MARKS.
        """
        if token not in self._bytes:
            self._bytes[token] = self._piece_bytes(token)
        return self._bytes[token]

    def token_name(self, token: int) -> str:
        """Return how a token is written, control tokens included; halves of characters replaced."""
        piece = self.token_bytes(token)
        if not piece and token in self._added:
            return str(self._added[token]["content"])
        return piece.decode("utf-8", "replace")

    def token_texts(self, tokens: Iterable[int]) -> list[str]:
        """Return by how much a text grows with each token; control tokens as they are written."""
        return token_texts((self.token_bytes(each), self.token_name(each)) for each in tokens)

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of the tokens; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(map(self.token_bytes, tokens)).decode("utf-8", "replace")

    def _token(self, name: str) -> str:
        value = self._settings.get(name) or ""
        return str(value.get("content", "")) if isinstance(value, dict) else str(value)

    @cached_property
    def _special_tokens(self) -> dict[str, str]:
        texts = (n for n, text in self._settings.items() if isinstance(text, str | dict))
        names = {"bos_token", "eos_token", *(n for n in texts if n.endswith("_token"))}
        return {name: self._token(name) for name in sorted(names)}

    @cached_property
    def _control_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self._control, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def _disarmed(self, node: Any, sentinel: str) -> Any:
        """Put sentinels into every control token that a text spells, however deep it is nested."""
        if isinstance(node, str):
            return self._control_pattern.sub(lambda found: sentinel.join(found[0]), node)
        if isinstance(node, Mapping):
            return {
                self._disarmed(key, sentinel): self._disarmed(value, sentinel)
                for key, value in node.items()
            }
        if isinstance(node, list | tuple):
            return [self._disarmed(item, sentinel) for item in node]
        return node

    @cached_property
    def _before(self) -> list[int]:
        """What the model puts before every text."""
        coded = self._encoder.encode("a", add_special_tokens=True)
        count = next((i for i, added in enumerate(coded.special_tokens_mask) if not added), 0)
        return list(coded.ids[:count])

    def _encode_parsed(self, text: str, sentinel: str) -> list[int]:
        """Return the ids of a text whose control tokens are those without sentinels in them."""
        ids: list[int] = []
        at = 0
        for found in self._control_pattern.finditer(text):
            token = self._control[found[0]]
            plain = text[at : found.start()]
            # Some tokens take the white space beside them along.
            plain = plain.rstrip() if self._added[token].get("lstrip") else plain
            ids += [*self._encode_plain(plain, sentinel, first=at == 0), token]
            at = found.end()
            if self._added[token].get("rstrip"):
                at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        return ids + self._encode_plain(text[at:], sentinel, first=at == 0)

    def _encode_plain(self, text: str, sentinel: str, *, first: bool) -> list[int]:
        plain = text.replace(sentinel, "")
        encoder = self._encoder if first else self._later
        return list(encoder.encode(plain, add_special_tokens=False).ids) if plain else []

    def _piece_bytes(self, token: int) -> bytes:
        if token in self._added:
            added = self._added[token]
            text = str(added["content"])
            return b"" if added.get("special") and text not in ANSWER_MARKS else text.encode()
        piece = self._encoder.id_to_token(token)
        if piece is None:
            return b""  # rows that pad the embedding to a round size
        if self._byte_level:
            return bytes(_BYTE_OF[char] for char in piece)
        found = _BYTE_PIECE.fullmatch(piece)
        return bytes([int(found[1], 16)]) if found else piece.replace("▁", " ").encode()

    @cached_property
    def _byte_level(self) -> bool:
        return '"ByteLevel"' in json.dumps(self._raw.get("decoder"))


def _read_tokenizer(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no tokenizer.json; fetch it, or write it with transformers: "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    return read_json(path)


def _build(raw: dict[str, Any], name: str) -> Any:
    try:
        from tokenizers import Tokenizer as Encoder
    except ImportError:
        raise MissingExtra("tokenizers", "cloud") from None
    try:
        encoder = Encoder.from_str(json.dumps(raw))
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(
            f"the tokenizer of {name} cannot be read ({error}); fetch it again"
        ) from None
    encoder.no_truncation()
    encoder.no_padding()
    encoder.encode_special_tokens = True  # spelled control tokens stay plain text
    return encoder


def _without_first_prefix(node: Any) -> Any:
    """Return the description with `prepend_scheme: first` turned off, wherever it is nested."""
    if isinstance(node, list):
        return [_without_first_prefix(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("prepend_scheme") == "first":
        return {**node, "prepend_scheme": "never"}
    skipped = ("model", "added_tokens")  # megabytes without a scheme in them
    return {k: v if k in skipped else _without_first_prefix(v) for k, v in node.items()}


def eos_ids(folder: Path, of_tokenizer: int | None) -> frozenset[int]:
    """Return every token that ends an answer of a folder's model, as each of its files tells."""
    ids = set() if of_tokenizer is None else {of_tokenizer}
    for name in ("config.json", "generation_config.json"):
        value = read_json(folder / name).get("eos_token_id")
        ids |= {value} if isinstance(value, int) else set(value or ())
    return frozenset(ids)


def _unused_sentinel(texts: Any) -> str:
    text = json.dumps(texts, ensure_ascii=False)
    return next(chr(code) for code in _SENTINELS if chr(code) not in text)


def _byte_alphabet() -> dict[str, int]:
    """Return GPT-2's printable stand-in of each byte (openai/gpt-2, encoder.py)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
