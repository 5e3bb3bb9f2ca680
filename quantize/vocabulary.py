"""Vocabulary: a Hugging Face `tokenizer.json` as GGUF keys, or a refusal that names the reason.

Two kinds can be said exactly: byte-level BPE, whose text split llama.cpp knows by name, and
SentencePiece-style BPE with byte fallback, whose merges are a score per token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from backbone.chat_template import read_templates
from backbone.errors import CheckpointError, cause
from backbone.file_reading import MAX_CONFIG_BYTES, read_text
from backbone.files import parse_json as parse_json
from backbone.tokenizer import eos_ids
from quantize.pre_tokenizers import pre_tokenizer_name, space_prefix


def merge_pairs(raw: Mapping[str, Any]) -> list[Sequence[str]]:
    """Return the merges of a parsed `tokenizer.json`, the first ones first."""
    # Older files join the two halves with a space, newer ones keep a pair.
    return [m.split(" ", 1) if isinstance(m, str) else m for m in raw["model"]["merges"]]


def merge_scores(raw: Mapping[str, Any]) -> tuple[float, ...]:
    """Return a score per token id: the earlier a token can be merged, the higher.

    Raises CheckpointError for merges that no scores can express.
    """
    vocab: dict[str, int] = raw["model"]["vocab"]
    ranks: dict[str, int] = {}
    known = set()
    for rank, (left, right) in enumerate(merge_pairs(raw)):
        ranks.setdefault(left + right, rank)
        known.add((left, right))
    _refuse_unmergeable(vocab, known, {t["content"] for t in raw.get("added_tokens", ())})
    by_id = {number: -float(ranks.get(token, 0)) for token, number in vocab.items()}
    return tuple(by_id.get(number, 0.0) for number in range(max(by_id) + 1))


def _refuse_unmergeable(
    vocab: Mapping[str, int], known: set[tuple[str, str]], added: set[str]
) -> None:
    # SentencePiece joins any two tokens whose concatenation is a token: the merges must say so.
    for token in vocab:
        if token in added or (token.startswith("<0x") and len(token) == 6):
            continue
        for cut in range(1, len(token)):
            halves = (token[:cut], token[cut:])
            if halves[0] in vocab and halves[1] in vocab and halves not in known:
                raise CheckpointError(
                    f"this tokenizer never merges {halves[0]!r} with {halves[1]!r}, which GGUF's "
                    "SentencePiece model cannot express; use a model with a byte-level tokenizer"
                )


SPACE = "\u2581"  # SentencePiece's visible space


class TokenType(IntEnum):
    """llama.cpp's kinds of token."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, kw_only=True)
class GgufVocabulary:
    """All that GGUF stores of a tokenizer; exactly one of merges and scores is set."""

    model: str  # "gpt2" (byte-level BPE) or "llama" (SentencePiece)
    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    special_ids: Mapping[str, int]  # bos, eos, unknown, padding -> id
    end_ids: tuple[int, ...]  # what ends an answer, eos among them
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool
    chat_templates: Mapping[str, str]  # by name
    is_phi3: bool = False  # its control tokens swallow the spaces after them
    notes: tuple[str, ...] = ()  # where llama.cpp is known to differ, one sentence each


def read_vocabulary(folder: Path, vocab_size: int) -> GgufVocabulary:
    """Read a folder's tokenizer, padded to the `vocab_size` rows of the embedding.

    Raises CheckpointError where the tokenizer is missing or GGUF has no way to say it.
    """
    raw = _tokenizer_json(folder)
    settings = _optional_json(folder / "tokenizer_config.json")
    model = raw["model"]
    _refuse_exotic(model)
    parts = _sentencepiece(raw) if model.get("byte_fallback") else _byte_level(raw)
    tokens, types = _tokens(raw, vocab_size, spaces=bool(model.get("byte_fallback")))
    special = _special_ids(raw, settings, _optional_json(folder / "config.json"))
    add_bos, add_eos = _added_ends(raw, settings, special)
    return GgufVocabulary(
        tokens=tokens,
        types=types,
        special_ids=special,
        end_ids=tuple(sorted(n for n in eos_ids(folder, special.get("eos")) if n < len(tokens))),
        add_bos=add_bos,
        add_eos=add_eos,
        chat_templates=read_templates(folder, settings),
        is_phi3=_is_phi3(raw),
        **{**parts, "scores": _padded(parts.get("scores", ()), len(tokens))},
    )


def _tokenizer_json(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no tokenizer.json; load its tokenizer with transformers and "
            "save_pretrained() it into the folder"
        )
    raw = _optional_json(path)
    if not isinstance(raw.get("model"), dict):
        raise CheckpointError(f"{path} has no tokenizer model; fetch the model again")
    return raw


def _optional_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        raw = parse_json(read_text(path, MAX_CONFIG_BYTES, pipes=False))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged ({cause(error)}); fetch the model again"
        ) from None
    return raw if isinstance(raw, dict) else {}


def _refuse_exotic(model: Mapping[str, Any]) -> None:
    kind = model.get("type", "BPE")
    if kind != "BPE":
        raise CheckpointError(
            f"a {kind} tokenizer cannot be expressed in GGUF here; only BPE tokenizers can"
        )
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise CheckpointError(
                f"a BPE tokenizer with {name}={model[name]!r} cannot be expressed in GGUF; "
                "use a byte-level one"
            )


def _byte_level(raw: Mapping[str, Any]) -> dict[str, Any]:
    pre, notes = pre_tokenizer_name(raw)
    pairs = [tuple(pair) for pair in merge_pairs(raw)]
    merges = tuple(f"{left} {right}" for left, right in pairs)
    return {
        "model": "gpt2",
        "pre": pre,
        "merges": merges,
        "add_space_prefix": False,
        "notes": notes,
    }


def _sentencepiece(raw: Mapping[str, Any]) -> dict[str, Any]:
    prefix, notes = space_prefix(raw)
    scores = merge_scores(raw)
    return {
        "model": "llama",
        "pre": "default",
        "scores": scores,
        "add_space_prefix": prefix,
        "notes": notes,
    }


def _tokens(
    raw: Mapping[str, Any], vocab_size: int, *, spaces: bool
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    texts: dict[int, str] = {number: text for text, number in raw["model"]["vocab"].items()}
    types = dict.fromkeys(texts, TokenType.NORMAL)
    if spaces:
        types |= {n: TokenType.BYTE for n, text in texts.items() if _is_byte(text)}
    for added in raw.get("added_tokens", ()):
        # llama.cpp compares user-defined tokens with the plain text.
        plain = added["content"] if added["special"] else added["content"].replace(SPACE, " ")
        texts[added["id"]] = plain
        types[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    unknown = raw["model"].get("unk_token") or "<unk>"
    if spaces and unknown in raw["model"]["vocab"]:
        types[raw["model"]["vocab"][unknown]] = TokenType.UNKNOWN
    if texts and max(texts) >= vocab_size:
        raise CheckpointError(
            f"the tokenizer has {max(texts) + 1} tokens but the model only {vocab_size} rows; "
            "fetch the tokenizer that belongs to this model"
        )
    everything = range(vocab_size)
    return (
        tuple(texts.get(n, f"[PAD{n}]") for n in everything),
        tuple(int(types.get(n, TokenType.UNUSED)) for n in everything),
    )


def _is_byte(text: str) -> bool:
    return len(text) == 6 and text.startswith("<0x") and text.endswith(">")


def _is_phi3(raw: Mapping[str, Any]) -> bool:
    """Tell the one pattern of space-swallowing tokens for which llama.cpp has a rule."""
    strips = {t["content"] for t in raw.get("added_tokens", ()) if t.get("rstrip")}
    if not strips:
        return False
    special = {t["content"] for t in raw["added_tokens"] if t["special"]}
    kept = {"<unk>", "<s>", "<|endoftext|>"}
    if kept <= special and "</s>" in strips and strips >= special - kept and not strips & kept:
        return True
    raise CheckpointError(
        f"the token {min(strips)!r} swallows the spaces after it, which GGUF cannot express; "
        "remove its rstrip from tokenizer.json"
    )


def _padded(scores: Sequence[float], length: int) -> tuple[float, ...]:
    if not scores:
        return ()
    return tuple(scores) + (0.0,) * (length - len(scores))


def _special_ids(
    raw: Mapping[str, Any], settings: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, int]:
    ids = {token["content"]: int(token["id"]) for token in raw.get("added_tokens", ())}
    ids = {**raw["model"]["vocab"], **ids}
    found: dict[str, int] = {}
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad")):
        token = settings.get(f"{theirs}_token")
        text = token.get("content") if isinstance(token, dict) else token
        number = ids.get(text) if text is not None else config.get(f"{theirs}_token_id")
        number = number[0] if isinstance(number, list) and number else number
        if isinstance(number, int):
            found[ours] = number
    return found


def _added_ends(
    raw: Mapping[str, Any], settings: Mapping[str, Any], special: Mapping[str, int]
) -> tuple[bool, bool]:
    """Return whether encoding puts BOS before and EOS after the text."""
    post: Mapping[str, Any] = raw.get("post_processor") or {}
    steps = post.get("processors", [post])
    templates = [step for step in steps if step.get("type") == "TemplateProcessing"]
    if not templates:
        return bool(settings.get("add_bos_token")), bool(settings.get("add_eos_token"))
    single = templates[-1]["single"]
    by_text = templates[-1]["special_tokens"]

    def names(piece: Mapping[str, Any], role: str) -> bool:
        token = piece.get("SpecialToken")
        return token is not None and special.get(role) in by_text[token["id"]]["ids"]

    return names(single[0], "bos"), names(single[-1], "eos")
