"""A draft model is found fit, or refused in one line, before anything is loaded."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge.llama.draft_model import LONGEST, open_draft, plan_draft, require_same_words
from edge.llama.fit import DoesNotFit, measure
from edge.llama.options import LlamaOptions
from offload.errors import SettingsError
from offload.pair import EDGE_MODEL
from tests.edge.drafted import engine_of


def _vocabulary(words: list[str], kind: int = 2) -> SimpleNamespace:
    names = SimpleNamespace(num_tokens=len(words), kind=kind, name=words.__getitem__)
    return SimpleNamespace(vocabulary=names, path=Path("m.gguf"))


WORDS = [f"w{number}" for number in range(300)]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (_vocabulary(WORDS, kind=1), "another kind of tokenizer"),
        (_vocabulary(WORDS[:100]), "100 tokens and not 300"),
        (_vocabulary([*WORDS[:250], "odd", *WORDS[251:]]), "'odd' as token 250 and not 'w250'"),
    ],
)
def test_another_vocabulary_is_refused_in_one_line(other: SimpleNamespace, said: str) -> None:
    require_same_words(_vocabulary(WORDS), _vocabulary(WORDS))  # type: ignore[arg-type]
    require_same_words(_vocabulary(WORDS), _vocabulary([*WORDS, "padding"]))  # type: ignore
    with pytest.raises(SettingsError, match="another vocabulary") as caught:
        require_same_words(_vocabulary(WORDS), other)  # type: ignore[arg-type]
    assert f"({said})" in str(caught.value) and "of the same family" in str(caught.value)


def test_a_stranger_is_refused_before_anything_is_loaded(tiny_gguf: Path) -> None:
    with pytest.raises(SettingsError, match="another vocabulary than"):
        engine_of(tiny_gguf, EDGE_MODEL)


def test_its_memory_is_counted(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = LlamaOptions(draft_model=tiny_gguf, num_threads=1)
    chosen = plan_draft(tiny_gguf, options, free_bytes=10**9)
    assert chosen is not None and chosen.params.num_tokens == 256 <= LONGEST
    need = measure(tiny_gguf, chosen.params)
    known = need.weights_bytes + need.cache_bytes
    assert known < chosen.need_bytes <= known + 5 * need.compute_bytes
    monkeypatch.setattr("edge.llama.draft_model.free_memory_bytes", lambda: 10**9)
    with contextlib.ExitStack() as stack:
        room = open_draft(tiny_gguf, options, stack)
        assert room.memory_bytes == 10**9 - chosen.need_bytes


def test_too_little_memory_names_the_draft_model(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def free(num_bytes: int) -> None:
        monkeypatch.setattr("edge.llama.draft_model.free_memory_bytes", lambda: num_bytes)

    alone = LlamaOptions(draft_model=tiny_gguf, num_threads=1)
    chosen = plan_draft(tiny_gguf, alone, free_bytes=10**9)
    assert chosen is not None
    for num_bytes in (1_000_000, int(1.2 * chosen.need_bytes)):
        free(num_bytes)
        with pytest.raises(DoesNotFit, match="or leave draft_model out"):
            engine_of(tiny_gguf, tiny_gguf)
    free(3 * chosen.need_bytes)
    engine_of(tiny_gguf, tiny_gguf).close()
