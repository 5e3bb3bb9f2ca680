from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backbone.errors import NearfarError
from edge.llama.context import BatchPart, Context, ContextParams, StepAborted
from edge.llama.kv_cache import KvCache
from edge.llama.kv_types import KvTypes
from edge.llama.native_handles import Model
from engine.window import Pins, Window
from offload.cancellation import Cancellation


@contextmanager
def _cache(
    path: Path, *, capacity: int = 64, kv: str = "f16", reuse: bool = True, sliding: bool = True
) -> Iterator[tuple[KvCache, Context]]:
    with (
        Model(path) as model,
        Context(
            model,
            ContextParams(
                num_outputs=16,
                num_tokens=capacity,
                num_threads=1,
                batch_size=16,
                kv_types=KvTypes.parse(kv),
            ),
        ) as context,
    ):
        window = Window(capacity, num_sinks=4, block=8)
        yield KvCache(context, window, sliding=sliding, reuse=reuse), context


def _read(cache: KvCache, prompt: list[int], pins: Pins | None = None) -> None:
    for _ in cache.read(prompt, pins or Pins.whole(len(prompt))):
        pass


def _held(cache: KvCache) -> list[int]:
    window = cache.window
    return [token for start, end in window.kept for token in window.stream[start:end]]


def _tokens(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, 256, count).tolist()


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory: pytest.TempPathFactory, make_tiny_gguf: Callable) -> Path:
    """A model of one layer: its keys and values depend on token and position alone."""
    return make_tiny_gguf(tmp_path_factory.mktemp("m") / "one.gguf", num_layers=1)


@pytest.mark.parametrize(("kv", "atol"), [("f16", 2e-2), ("q8_0", 0.12), ("q4_0", 1.5)])
def test_after_evictions_the_context_is_that_of_the_kept_tokens(
    one_layer: Path, kv: str, atol: float
) -> None:
    pins = Pins(num_first=6, last_start=6, last_end=10)
    with _cache(one_layer, kv=kv) as (cache, context):
        _read(cache, _tokens(10), pins)
        for token in _tokens(300, seed=1):
            assert cache.append([token], pins)
        assert cache.window.dropped > 200 and cache.window.used <= 64
        found, held = context.logits().copy(), _held(cache)
    with _cache(one_layer) as (fresh, context):
        _read(fresh, held)
        np.testing.assert_allclose(found, context.logits(), atol=atol)
        assert np.corrcoef(found, context.logits())[0, 1] > 0.95


def test_long_prompt_is_read_without_its_middle(one_layer: Path) -> None:
    prompt = _tokens(500)
    pins = Pins(num_first=12, last_start=480, last_end=500)
    with _cache(one_layer) as (cache, context):
        _read(cache, prompt, pins)
        held, found = _held(cache), context.logits().copy()
        assert held[:12] == prompt[:12] and held[-20:] == prompt[-20:]
        assert cache.window.stream == prompt
        assert 0 < cache.window.free <= 64 // 4
    with _cache(one_layer) as (fresh, context):
        _read(fresh, held)
        np.testing.assert_allclose(found, context.logits(), atol=5e-3)


@pytest.mark.parametrize("length", [50, 59, 61, 64])
@pytest.mark.parametrize("held", [0, 2, 30])
def test_prompt_that_fits_is_read_whole(tiny_gguf: Path, length: int, held: int) -> None:
    prompt = _tokens(length)
    with _cache(tiny_gguf) as (cache, _):
        if held:
            _read(cache, prompt[:held])
        _read(cache, prompt, Pins(num_first=6, last_start=length - 5, last_end=length))
        assert _held(cache) == prompt and cache.window.dropped == 0


@settings(max_examples=60, deadline=None)
@given(
    turns=st.lists(st.tuples(st.integers(1, 50), st.integers(0, 40)), min_size=1, max_size=8),
    first=st.integers(0, 12),
    forget=st.booleans(),
)
def test_any_chat_keeps_what_is_pinned(
    tiny_gguf: Path, turns: list[tuple[int, int]], first: int, forget: bool
) -> None:
    with _cache(tiny_gguf) as (cache, _):
        text = _tokens(first)
        for number, (asked, answered) in enumerate(turns):
            if forget and number % 3 == 2:
                text = text[: first + len(text) // 2]
            start = len(text)
            text = [*text, *_tokens(asked, seed=number)]
            pins = Pins(num_first=first, last_start=start, last_end=len(text))
            if pins.num_tokens >= 64:
                return
            _read(cache, text, pins)
            window = cache.window
            assert window.stream == text and window.used <= 64
            assert window.holds(0, first) and window.holds(start, len(text))
            assert window.dropped == 0 or len(text) > 64 - 1
            for token in _tokens(answered, seed=100 + number):
                if cache.append([token], pins):
                    text.append(token)
            assert window.holds(0, first) and window.holds(start, pins.last_end)


def test_next_turn_reads_only_what_is_new_even_after_evictions(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = _tokens(100)
    pins = Pins(num_first=6, last_start=90, last_end=100)
    with _cache(tiny_gguf) as (cache, context):
        _read(cache, history, pins)
        for token in _tokens(50, seed=1):
            cache.append([token], pins)
        sizes: list[int] = []
        decode = context.decode
        monkeypatch.setattr(
            context, "decode", lambda t, p, **k: (sizes.append(len(t)), decode(t, p, **k))
        )
        turn = [*cache.window.stream, *_tokens(15, seed=2)]
        _read(cache, turn, Pins(num_first=6, last_start=150, last_end=165))
        assert sum(sizes) == 15
        assert cache.window.stream == turn and cache.window.used <= 64


def test_changed_history_that_fits_is_read_in_full(tiny_gguf: Path) -> None:
    with _cache(tiny_gguf) as (cache, _):
        first = _tokens(200)
        _read(cache, first, Pins(num_first=6, last_start=190, last_end=200))
        assert cache.window.dropped > 0
        _read(cache, first[:40], Pins(num_first=6, last_start=30, last_end=40))
        assert cache.window.dropped == 0 and _held(cache) == first[:40]


def test_pinned_text_that_was_forgotten_is_read_again(tiny_gguf: Path) -> None:
    with _cache(tiny_gguf) as (cache, _):
        first = _tokens(200)
        _read(cache, first, Pins(num_first=6, last_start=190, last_end=200))
        _read(cache, first, Pins(num_first=30, last_start=190, last_end=200))
        assert cache.window.holds(0, 30)


def test_same_logits_with_reuse_and_without(tiny_gguf: Path) -> None:
    prompts = [_tokens(30), _tokens(20), _tokens(40), _tokens(40, seed=5), _tokens(50)]
    found = []
    for reuse in (True, False):
        with _cache(tiny_gguf, reuse=reuse) as (cache, context):
            rows = []
            for prompt in prompts:
                _read(cache, prompt)
                rows.append(context.logits().copy())
            found.append(rows)
    np.testing.assert_allclose(found[0], found[1], atol=1e-2)


def test_without_sliding_a_full_context_takes_no_more(tiny_gguf: Path) -> None:
    with _cache(tiny_gguf, sliding=False) as (cache, _):
        _read(cache, _tokens(63))
        assert cache.append([1], Pins.whole(63))
        assert not cache.append([2], Pins.whole(63))
        assert cache.window.dropped == 0


def test_failure_leaves_an_empty_cache(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _cache(tiny_gguf) as (cache, context):
        _read(cache, _tokens(30))
        expected = context.logits().copy()

        def fail(tokens: list[int], position: int, **_: bool) -> None:
            raise NearfarError("no")

        with monkeypatch.context() as patch:
            patch.setattr(context, "decode", fail)
            with pytest.raises(NearfarError):
                cache.append([1], Pins.whole(30))
        assert cache.window.used == 0
        _read(cache, _tokens(30))
        np.testing.assert_allclose(context.logits(), expected, atol=1e-3)


def test_a_step_whose_reader_has_gone_is_aborted_and_what_was_read_stays(tiny_gguf: Path) -> None:
    prompt, gone = _tokens(48), Cancellation()
    with _cache(tiny_gguf) as (fresh, _):
        _read(fresh, prompt)
        expected = fresh.logits(0).copy()
    with _cache(tiny_gguf) as (cache, _):
        pieces = cache.read(prompt, Pins.whole(48))
        cache.stop_at = gone.address
        next(pieces)  # nobody has gone yet: a piece of 16 tokens is read
        gone.set()
        with pytest.raises(StepAborted):
            next(pieces)
        assert _held(cache) == prompt[:16]
        cache.stop_at = 0
        _read(cache, prompt)
        assert cache.num_reused == 16
        np.testing.assert_allclose(cache.logits(0), expected, rtol=0, atol=1e-4)


def test_who_has_gone_ends_no_step_of_others(tiny_gguf: Path) -> None:
    gone = Cancellation()
    gone.set()
    with (
        Model(tiny_gguf) as model,
        Context(model, ContextParams(num_tokens=64, num_seqs=2, num_outputs=2)) as context,
    ):
        parts = [
            BatchPart(tokens=[1, 2, 3], position=0, seq=0, stop_at=gone.address),
            BatchPart(tokens=[4, 5, 6], position=0, seq=1),
        ]
        context.decode_parts(parts)
        assert np.isfinite(context.logits(parts[1].first_row)).all()
        with pytest.raises(StepAborted):
            context.decode_parts([BatchPart(tokens=[7], position=3, stop_at=gone.address)])
        context.decode_parts([BatchPart(tokens=[7], position=3)])
