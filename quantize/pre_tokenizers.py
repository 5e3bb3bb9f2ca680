"""Which of llama.cpp's text splits a `tokenizer.json` asks for, recognised by its regex.

llama.cpp has its splits built in and chooses one by name; a split it does not have cannot be
converted, since the same text would become other tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backbone.errors import CheckpointError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Words end where the case turns: "camelCase" is two. Mistral's Tekken and OpenAI's o200k.
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+",
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*",
)
_CASED_REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = rf"{_CASED[0]}|{_CASED[1]}|\p{{N}}|{_CASED_REST}"
_O200K = rf"{_CASED[0]}{_CONTRACTIONS}?|{_CASED[1]}{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_CASED_REST}"

# (digit rule, regex) -> (name that merges, name that takes whole words first: ignore_merges)
_NAMES: dict[tuple[str, ...], tuple[str | None, str | None]] = {
    (rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_REST}",): ("qwen2", None),
    (rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_REST}",): ("smaug-bpe", "llama-bpe"),
    (_GPT2,): ("gpt-2", None),
    ("digits", _GPT2): ("smollm", None),
    (_TEKKEN,): (None, "tekken"),
    (_O200K,): ("gpt-4o", None),
}
# Names that llama.cpp's own converter gives to splits that we call otherwise.
_ALIASES = {"llama3": "llama-bpe", "llama-v3": "llama-bpe"}
_DIGITS = {"type": "Digits", "individual_digits": True}
_SPLIT_BY_CASE = ("tekken", "gpt-4o")

_NFC_NOTE = (
    "llama.cpp does not compose characters (NFC) before splitting; text in decomposed form may "
    "become other tokens"
)
_MARKS_NOTE = (
    "llama.cpp takes combining marks (as in Hindi and Thai) for no part of a word in this split; "
    "such text may become other tokens"
)
_LEADING_SPACE_NOTE = (
    "llama.cpp puts a space before every text, this tokenizer only before text that does not "
    "begin with one; such text becomes one token more"
)


def pre_tokenizer_name(raw: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Return llama.cpp's name for a byte-level tokenizer's split, and notes on known differences.

    Raises CheckpointError for a split or a normalizer that llama.cpp does not have.
    """
    notes = _normalizer_notes(raw.get("normalizer"))
    splits = _splits(raw.get("pre_tokenizer"))
    ignores_merges = bool(raw["model"].get("ignore_merges"))
    name = _NAMES.get(splits, (None, None))[ignores_merges]
    if name is None:
        shown = " then ".join(splits) or "no split"
        raise CheckpointError(
            f"llama.cpp has no pre-tokenizer for this tokenizer ({shown}, "
            f"ignore_merges={ignores_merges}); convert a model with a split it knows: "
            + ", ".join(sorted(n for pair in _NAMES.values() for n in pair if n))
        )
    return name, (*notes, _MARKS_NOTE) if name in _SPLIT_BY_CASE else notes


def pre_tokenizer_for(name: str) -> tuple[dict[str, Any], bool]:
    """Return what tokenizer.json says of the split that llama.cpp calls by a name.

    Beside the pre-tokenizer, whether whole words are taken before merges (ignore_merges). Raises
    CheckpointError for a name that is not known.
    """
    wanted = _ALIASES.get(name, name)
    for splits, names in _NAMES.items():
        if wanted in names:
            steps = [_DIGITS if split == "digits" else _isolated(split) for split in splits]
            byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
            steps.append({**byte_level, "use_regex": False})
            return {"type": "Sequence", "pretokenizers": steps}, names.index(wanted) == 1
    raise CheckpointError(
        f"the text split {name!r} of this file's tokenizer is not known here; name a folder with "
        "its tokenizer.json (--tokenizer FOLDER)"
    )


def _isolated(regex: str) -> dict[str, Any]:
    pattern = {"Regex": regex}
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


def _normalizer_notes(normalizer: Mapping[str, Any] | None) -> tuple[str, ...]:
    if normalizer is None:
        return ()
    if normalizer.get("type") == "NFC":
        return (_NFC_NOTE,)
    raise CheckpointError(
        f"a tokenizer with a {normalizer.get('type')} normalizer cannot be expressed in GGUF; "
        "use a model whose tokenizer has none"
    )


def _splits(pre: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the chain of splits as regexes; `digits` stands for one token per digit."""
    steps = (pre or {}).get("pretokenizers", [pre] if pre else [])
    found: list[str] = []
    byte_level = False
    for step in steps:
        kind = step.get("type")
        if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
            pattern = step["pattern"]
            found.append(pattern.get("Regex") or str(pattern.get("String")))
        elif kind == "Digits" and step.get("individual_digits"):
            found.append("digits")
        elif kind == "ByteLevel" and not step.get("add_prefix_space"):
            byte_level = True
            found.extend([_GPT2] if step.get("use_regex", True) else [])
        else:
            raise CheckpointError(
                f"a {kind} pre-tokenizer with these settings cannot be expressed in GGUF; "
                "use a model with a byte-level tokenizer"
            )
    if not byte_level:
        raise CheckpointError(
            "a BPE tokenizer that is neither byte-level nor has byte fallback cannot be expressed "
            "in GGUF; use a model with a byte-level tokenizer"
        )
    return tuple(found)


def space_prefix(raw: Mapping[str, Any]) -> tuple[bool, tuple[str, ...]]:
    """Return whether a SentencePiece-style tokenizer puts a space before the text, and notes."""
    pre = raw.get("pre_tokenizer")
    steps = _flat(raw.get("normalizer"), "normalizers") + _flat(pre, "pretokenizers")
    prefix = False
    notes: tuple[str, ...] = ()
    for step in steps:
        kind = step.get("type")
        if kind == "Prepend" and step.get("prepend") == "\u2581":
            prefix = True
        elif kind == "Metaspace" and step.get("replacement") == "\u2581":
            prefix = step.get("prepend_scheme", "always") != "never"
            notes = (_LEADING_SPACE_NOTE,) if prefix else ()
            _refuse_split(step)
        elif not _replaces_spaces(step):
            raise CheckpointError(
                f"a byte-fallback tokenizer with a {kind} step cannot be expressed in GGUF; "
                "use a model with a plain SentencePiece or byte-level tokenizer"
            )
    return prefix, notes


def _flat(step: Mapping[str, Any] | None, inner: str) -> list[Mapping[str, Any]]:
    if step is None:
        return []
    return list(step.get(inner, [step]))


def _replaces_spaces(step: Mapping[str, Any]) -> bool:
    """Tell the step that makes spaces visible; afterwards a split at spaces finds none."""
    on_space = step.get("pattern") == {"String": " "}
    replaces = step.get("type") == "Replace" and step.get("content") == "\u2581"
    return on_space and (replaces or step.get("type") == "Split")


def _refuse_split(step: Mapping[str, Any]) -> None:
    if step.get("split", True):
        raise CheckpointError(
            "a Metaspace pre-tokenizer that splits at spaces cannot be expressed in GGUF; "
            "use a model with a byte-level tokenizer"
        )
