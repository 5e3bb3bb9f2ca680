from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.llama.context import Context, ContextParams
from edge.llama.kv_types import KvTypes
from edge.llama.native_handles import Model
from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from engine.token_healing import Binding, Healer, Spellings
from offload.errors import RequestError
from offload.messages import Delta, Finish, Request, Sampling

EXACT = {"num_threads": 1, "kv_cache_dtype": "f32", "flash_attention": False}


class Words:
    """A vocabulary of these pieces; token 0 is a control token, without bytes."""

    def __init__(self, *pieces: bytes) -> None:
        self.all = (b"", *pieces)

    def pieces(self) -> Sequence[bytes]:
        return self.all

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        return b"".join(self.all[token] for token in tokens)


HEL = Words(b"h", b"e", b"l", b"o", b"hello", b"help", b"el", b" ", b" he", b"\xff\xff", b"\xff")


def test_as_much_is_taken_back_as_one_longer_token_reaches() -> None:
    healer = Healer(HEL)
    tokens = {piece: token for token, piece in enumerate(HEL.all)}

    def taken(*pieces: bytes) -> int:
        return healer.taken_back([tokens[piece] for piece in pieces])

    assert taken(b"o", b"h", b"el") == 2, "hello or help"
    assert taken(b"h", b"e", b"l", b"l") == 4
    assert taken(b" ") == 1
    assert taken(b"\xff") == 1
    assert taken(b"hello") == taken(b"o") == taken() == taken(b"\xff\xff") == 0


@given(st.lists(st.binary(min_size=1, max_size=3), max_size=12), st.binary(min_size=1, max_size=4))
def test_what_may_come_is_what_spells_the_text(pieces: list[bytes], text: bytes) -> None:
    """Beside every byte alone, so that all can be spelled."""
    words = Words(*pieces, *(bytes([byte]) for byte in range(256)))
    allowed = set(Binding(Spellings(words), text).allowed())
    for token in range(1, len(words.all)):
        piece = words.all[token]
        assert (token in allowed) == (piece.startswith(text) or text.startswith(piece))
    assert 0 not in allowed


def test_no_token_leads_where_the_rest_cannot_be_spelled() -> None:
    words = Words(b"ab", b"a", b"abc", b"c", b"bc")
    allowed = Binding(Spellings(words), b"abc").allowed()
    assert {words.all[token] for token in allowed} == {b"ab", b"a", b"abc"}
    allowed = Binding(Spellings(Words(b"ab", b"a", b"abc")), b"abc").allowed()
    assert list(allowed) == [3], "neither b nor bc nor c is a token"


@pytest.fixture(scope="module")
def engine(tiny_gguf: Path) -> Iterator[LlamaEngine]:
    engine = LlamaEngine(tiny_gguf, options=LlamaOptions(**EXACT))  # type: ignore[arg-type]
    yield engine
    engine.close()


def _ask(engine: LlamaEngine, prefix: str, **sampling: object) -> tuple[list[int], str]:
    settings = Sampling(**{"max_tokens": 12, **sampling})  # type: ignore[arg-type]
    *deltas, finish = engine.answer(
        Request(prompt="hello ", answer_prefix=prefix, sampling=settings)
    )
    assert isinstance(finish, Finish)
    tokens = [t for d in deltas if isinstance(d, Delta) for t in d.token_ids]
    assert finish.usage.completion_tokens == len(tokens)
    return tokens, "".join(d.text for d in deltas if isinstance(d, Delta))


TH = 256  # the one token of more than a byte


def _reference(path: Path, prefix: str, num_tokens: int) -> list[int]:
    """Choose greedily, the first token among t and th; by a context of its own."""
    params = ContextParams(
        num_tokens=256, flash_attention=False, kv_types=KvTypes.parse("f32"), num_outputs=1
    )
    with Model(path) as model, Context(model, params) as context:
        words = model.vocabulary
        t = words.tokenize("t")[0]
        tokens = words.tokenize("hello ") + words.tokenize(prefix)[:-1]
        context.decode(tokens, 0)
        logits = context.logits()
        chosen = [t if logits[t] >= logits[TH] else TH]
        while len(chosen) < num_tokens:
            context.decode(chosen[-1:], len(tokens) + len(chosen) - 1)
            chosen.append(int(context.logits().argmax()))
    return chosen if chosen[0] == TH else chosen[1:]


@pytest.mark.parametrize("prefix", ["t", "at", "what t", "not", "best", "wait", "xyt", "tt"])
def test_a_cut_token_is_chosen_again_among_those_that_spell_it(
    tiny_gguf: Path, engine: LlamaEngine, prefix: str
) -> None:
    expected = _reference(tiny_gguf, prefix, 13)
    found, text = _ask(engine, prefix)
    assert found == expected[: len(found)] and len(found) == 12
    if found[0] == TH:
        assert text[0] == "h", "the t is the reader's already"


@pytest.mark.parametrize("way", [{}, {"temperature": 1.0, "seed": 5}, {"repetition_penalty": 1.2}])
def test_the_longer_token_comes_where_it_is_likelier(
    engine: LlamaEngine, way: dict[str, object]
) -> None:
    tokens, text = _ask(engine, "at", logit_bias={TH: 30.0}, **way)
    assert tokens[0] == TH and text.startswith("h")
    tokens, _ = _ask(engine, "at", logit_bias={TH: -30.0, 257: -50.0}, **way)
    assert TH not in tokens and len(tokens) == 12, "the t again is no token of the answer"


def test_a_whole_token_is_left_alone(engine: LlamaEngine) -> None:
    request = Request(prompt="hello ", answer_prefix="a th", sampling=Sampling(max_tokens=4))
    prompt, spell = engine.prompts.begun(request)
    assert (prompt, spell) == (engine.prompt_tokens(request), b"")


def test_under_a_schema_and_with_a_judged_prompt_each_token_counts(engine: LlamaEngine) -> None:
    for asked in (Sampling(json_schema={"type": "string"}), Sampling(prompt_logprobs=True)):
        request = Request(prompt="hello ", answer_prefix='"t', sampling=asked)
        assert engine.prompts.begun(request) == (engine.prompt_tokens(request), b"")
        list(engine.answer(request))


def test_a_model_that_never_writes_what_must_come_is_told(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = engine.context.logits
    silent = [TH, *engine.prompt_tokens(Request(prompt="t"))]

    def without(row: int = -1) -> np.ndarray:
        found = logits(row).copy()
        found[silent] = -np.inf
        return found

    monkeypatch.setattr(engine.context, "logits", without)
    with pytest.raises(RequestError, match="end it earlier"):
        _ask(engine, "at")


def test_stories_cut_anywhere_go_on_as_they_were(stories_gguf: Path) -> None:
    """Where the cut lies inside a token, reading it as it stands often loses the thread."""
    engine = LlamaEngine(stories_gguf, options=LlamaOptions(**EXACT))  # type: ignore[arg-type]

    def told(prefix: str, max_tokens: int) -> str:
        asked = Sampling(max_tokens=max_tokens)
        request = Request(prompt="Once upon a time", answer_prefix=prefix, sampling=asked)
        return "".join(d.text for d in engine.answer(request) if isinstance(d, Delta))

    whole = told("", 24)
    cuts = range(1, len(whole) - 20)

    def right() -> int:
        return sum(whole[cut:].startswith(rest) for cut in cuts if (rest := told(whole[:cut], 4)))

    healed = right()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Healer, "taken_back", lambda self, tokens: 0)
        plain = right()
    assert healed > plain and healed >= 0.9 * len(cuts)
    engine.close()
