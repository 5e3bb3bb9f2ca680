from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from backbone.errors import NearfarError
from edge.llama import model_drafter
from edge.llama.draft_model import plan_draft
from edge.llama.native_handles import Model
from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from engine.draft_gate import StepTimes
from engine.drafts import DraftStats, FirstOf
from offload.errors import SettingsError
from offload.messages import Delta, Finish, Request, Sampling
from offload.pair import CLOUD_MODEL, EDGE_MODEL
from quantize.gguf import convert
from tests.edge.drafted import engine_of


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch, always_drafted: None) -> None:
    """Draft at every step, however unsure the small model is and whatever the clock says."""
    monkeypatch.setattr(model_drafter, "LEAST_LIKELY", 0.0)
    monkeypatch.setattr(StepTimes, "ratio", lambda self, num_tokens: 1.0)


@pytest.fixture(scope="module")
def nearly(tmp_path_factory: pytest.TempPathFactory, make_tiny_gguf: Callable[..., Path]) -> Path:
    """The tiny model with some noise in its weights: often of the same mind, and not always."""
    rng = np.random.default_rng(7)

    def noise(name: str, weight: np.ndarray) -> np.ndarray:
        return (weight + rng.normal(0, 0.02, weight.shape)).astype(np.float32)

    return make_tiny_gguf(tmp_path_factory.mktemp("draft") / "nearly.gguf", spoil=noise)


def _ask(engine: LlamaEngine, prompt: str = "hello", **sampling: object) -> list[Delta]:
    settings = Sampling(**{"max_tokens": 60, **sampling})  # type: ignore[arg-type]
    *deltas, finish = engine.answer(Request(prompt=prompt, sampling=settings))
    assert isinstance(finish, Finish) and finish.reason in ("length", "stop")
    return deltas  # type: ignore[return-value]


@contextlib.contextmanager
def _both(path: Path, draft: Path, **options: object) -> Iterator[tuple[LlamaEngine, LlamaEngine]]:
    plain, drafted = engine_of(path, None, **options), engine_of(path, draft, **options)
    yield plain, drafted
    plain.close()
    drafted.close()


WAYS: dict[str, dict[str, object]] = {
    "greedy": {},
    "sampled": {"temperature": 0.9, "seed": 4, "top_k": 40},
    "penalized": {"repetition_penalty": 1.3},
    "biased": {"logit_bias": {101: 3.0}},
    "with alternatives": {"logprobs": 2},
    "by a schema": {"json_schema": {"type": "array", "items": {"type": "integer"}}},
    "stopped": {"stop": ("e", "th")},
}


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("way", WAYS)
def test_answers_are_the_same_with_a_draft_model(tiny_gguf: Path, nearly: Path, way: str) -> None:
    with _both(tiny_gguf, nearly) as (plain, drafted):
        for prompt in ("hello", "hello there", "something else " * 9):
            assert _told(_ask(plain, prompt, **WAYS[way])) == _told(
                _ask(drafted, prompt, **WAYS[way])
            )
        assert drafted.draft_stats.proposed > drafted.draft_stats.accepted


def _told(deltas: list[Delta]) -> list[tuple[object, ...]]:
    return [
        (d.text, d.token_ids, [[a.token_id for a in row] for row in d.alternatives]) for d in deltas
    ]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("which", ["itself", "nearly itself", "a stranger"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"window": 60},
        {"window": 60, "num_sinks": 0},
        {"max_num_seqs": 3},
        {"max_draft_tokens": 15},
        {"max_num_batched_tokens": 7, "window": 60},
    ],
    ids=str,
)
def test_every_way_of_running_gives_the_same_answer(
    tiny_gguf: Path,
    nearly: Path,
    tmp_path: Path,
    make_tiny_gguf: Callable[..., Path],
    which: str,
    options: dict[str, object],
) -> None:
    stranger = make_tiny_gguf(tmp_path / "stranger.gguf", seed=9, num_layers=1)
    draft = {"itself": tiny_gguf, "nearly itself": nearly, "a stranger": stranger}[which]
    with _both(tiny_gguf, draft, **options) as (plain, drafted):
        for prompt in ("abcabcabc", "abcabcabc and more"):
            expected = [d.token_ids for d in _ask(plain, prompt, max_tokens=100)]
            assert [d.token_ids for d in _ask(drafted, prompt, max_tokens=100)] == expected
        draft_stats = drafted.draft_stats
        assert draft_stats.steps > 0
        # Sliding windows part the two, since drafts are cut off where the window is full.
        if which == "itself" and not options:
            assert draft_stats.accepted == draft_stats.proposed
        window = drafted.slots.all[0].cache.window
        assert window.used <= window.capacity


@pytest.mark.usefixtures("eager")
def test_the_draft_models_own_window_slides(
    tiny_gguf: Path, tmp_path: Path, make_tiny_gguf: Callable[..., Path]
) -> None:
    short = make_tiny_gguf(tmp_path / "short.gguf", context_len=48)
    with _both(tiny_gguf, short, window=100) as (plain, drafted):
        prompt = "a prompt that is longer than what the draft model can hold at once"
        expected = [d.token_ids for d in _ask(plain, prompt, max_tokens=100)]
        assert [d.token_ids for d in _ask(drafted, prompt, max_tokens=100)] == expected
        assert drafted.draft_model is not None
        window = drafted.draft_model.reader.cache.window
        assert window.capacity == 48 and window.dropped > 60 and window.used <= 48
        assert drafted.draft_stats.accepted > 0


@pytest.mark.parametrize("kv", ["auto", "f16", "q8_0", "k8v4"])
def test_it_keeps_its_keys_as_the_larger_model_does(tiny_gguf: Path, kv: str) -> None:
    chosen = plan_draft(
        tiny_gguf, LlamaOptions(draft_model=tiny_gguf, kv_cache_dtype=kv), free_bytes=10**9
    )
    assert chosen is not None
    assert str(chosen.params.kv_types) == {"auto": "f16", "k8v4": "q8_0/q4_0"}.get(kv, kv)


def test_heads_that_cannot_keep_them_so_choose_their_own(
    tiny_gguf: Path, tmp_path: Path, make_tiny_gguf: Callable[..., Path]
) -> None:
    thin = make_tiny_gguf(tmp_path / "thin.gguf", head=16)
    options = LlamaOptions(draft_model=thin, kv_cache_dtype="q8_0")
    chosen = plan_draft(tiny_gguf, options, free_bytes=10**9)
    assert chosen is not None and str(chosen.params.kv_types) == "f16"


@pytest.mark.usefixtures("eager")
def test_what_it_holds_is_what_was_said(tiny_gguf: Path, nearly: Path) -> None:
    engine = engine_of(tiny_gguf, nearly)
    for prompt in ("one", "one and two", "three"):
        said = [t for d in _ask(engine, prompt, max_tokens=40) for t in d.token_ids]
        assert engine.draft_model is not None
        held = engine.draft_model.reader.cache.window.stream
        whole = [*engine.prompt_tokens(Request(prompt=prompt)), *said]
        sure = len(held) - 8  # the newest guesses are taken back when the next are asked for
        assert held[:sure] == whole[:sure] and sure > len(whole) - 30
    engine.close()


@pytest.mark.usefixtures("eager")
async def test_drafts_are_for_who_writes_alone(tiny_gguf: Path, nearly: Path) -> None:
    with _both(tiny_gguf, nearly, max_num_seqs=2) as (plain, drafted):
        expected = [[t for d in _ask(plain, p) for t in d.token_ids] for p in ("one", "two")]

        async def ask(prompt: str) -> list[int]:
            request = Request(prompt=prompt, sampling=Sampling(max_tokens=60))
            items = [item async for item in drafted.generate(request)]
            return [t for item in items if isinstance(item, Delta) for t in item.token_ids]

        assert await asyncio.gather(ask("one"), ask("two")) == expected
        before = drafted.draft_stats.steps
        assert await ask("one") == expected[0]
        assert drafted.draft_stats.steps > before


@pytest.mark.usefixtures("eager")
async def test_it_keeps_nothing_for_another_asker_or_of_what_is_forgotten(
    tiny_gguf: Path, nearly: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(tiny_gguf, nearly)
    assert engine.draft_model is not None
    context, read = engine.draft_model.context, list[int]()
    decode = context.decode
    monkeypatch.setattr(
        context, "decode", lambda t, p, **options: (read.append(len(t)), decode(t, p, **options))[1]
    )

    def most_read(salt: str) -> int:
        """Return the largest step of the draft model: the prompt, unless it holds it already."""
        read.clear()
        asked = Request(prompt="hello " * 20, cache_salt=salt, sampling=Sampling(max_tokens=9))
        list(engine.answer(asked))
        return max(read)

    assert most_read("one") > 100 > 20 > most_read("one")
    assert most_read("two") > 100, "another's text is never looked at"
    await engine.forget("anything")
    assert engine.draft_model.reader.cache.window.used == 0
    assert most_read("two") > 100
    engine.close()


@pytest.mark.usefixtures("eager")
def test_a_failing_draft_model_is_told_and_costs_no_answer(
    tiny_gguf: Path, nearly: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _both(tiny_gguf, nearly) as (plain, drafted), caplog.at_level(logging.WARNING):
        assert drafted.draft_model is not None
        context, calls = drafted.draft_model.context, [0]
        decode = context.decode

        def failing(tokens: list[int], position: int, **options: bool) -> None:
            calls[0] += 1
            if calls[0] == 9:
                raise NearfarError("out of luck; try again")
            decode(tokens, position, **options)

        monkeypatch.setattr(context, "decode", failing)
        expected = [d.token_ids for d in _ask(plain)]
        assert [d.token_ids for d in _ask(drafted)] == expected
        assert calls[0] == 9 and "goes on without it" in caplog.text
        assert [d.token_ids for d in _ask(drafted)] == expected
        assert calls[0] > 20, "the next answer is drafted again"


def test_a_draft_model_without_numbers_guesses_nothing(
    tiny_gguf: Path, tmp_path: Path, make_tiny_gguf: Callable[..., Path]
) -> None:
    def spoil(name: str, weight: np.ndarray) -> np.ndarray:
        return np.full_like(weight, np.nan) if name == "output" else weight

    broken = make_tiny_gguf(tmp_path / "nan.gguf", spoil=spoil)
    with _both(tiny_gguf, broken) as (plain, drafted):
        assert [d.token_ids for d in _ask(drafted)] == [d.token_ids for d in _ask(plain)]
        assert drafted.draft_stats.proposed == 0


@pytest.mark.usefixtures("eager")
def test_models_that_cannot_take_back_are_not_drafted_for_and_do_not_draft(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(tiny_gguf, tiny_gguf)
    expected = [d.token_ids for d in _ask(engine)]
    assert engine.draft_stats.steps > 0
    before = engine.draft_stats.steps
    engine.context.can_take_back = False
    assert [d.token_ids for d in _ask(engine)] == expected
    assert engine.draft_stats.steps == before
    engine.close()
    monkeypatch.setattr(Model, "can_take_back", False)
    with pytest.raises(SettingsError, match="cannot take a token back"):
        engine_of(tiny_gguf, tiny_gguf)


class Scripted:
    """A drafter that proposes the same each time and remembers what it is told."""

    def __init__(self, draft: list[int]) -> None:
        self.draft, self.told, self.verdicts = draft, list[int](), list[tuple[int, int]]()

    def add(self, token: int) -> None:
        self.told.append(token)

    def propose(self, limit: int) -> list[int]:
        return self.draft[: max(0, limit)]

    def observe(self, num_proposed: int, num_accepted: int, seconds: float) -> None:
        self.verdicts.append((num_proposed, num_accepted))


def test_the_first_guess_is_taken_and_only_its_giver_is_judged() -> None:
    silent, first, second = Scripted([]), Scripted([1, 2]), Scripted([3])
    draft_stats = DraftStats()
    both = FirstOf([silent, first, second], draft_stats)
    both.add(7)
    assert both.propose(5) == [1, 2]
    both.observe(2, 1, 0.1)
    assert (silent.verdicts, first.verdicts, second.verdicts) == ([], [(2, 1)], [])
    assert [each.told for each in (silent, first, second)] == [[7]] * 3
    assert both.propose(0) == []
    both.observe(0, 0, 0.1)
    assert silent.verdicts == second.verdicts == [(0, 0)]
    assert (draft_stats.steps, draft_stats.proposed, draft_stats.accepted) == (1, 2, 1)


def test_a_draft_model_that_cannot_pay_is_told_at_the_start_and_does_nothing(
    tiny_gguf: Path,
    nearly: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two models of one size: a guess takes as long as what it saves."""
    monkeypatch.setattr(
        "edge.llama.draft_model.timed_step", lambda context, num_tokens: 1e-3 * (4 + num_tokens)
    )
    with _both(tiny_gguf, nearly) as (plain, drafted):
        told = [record.getMessage() for record in caplog.records]
        assert any("cannot make this model quicker" in line for line in told)
        expected = [d.token_ids for d in _ask(plain, "hello", max_tokens=60)]
        assert [d.token_ids for d in _ask(drafted, "hello", max_tokens=60)] == expected
        assert drafted.draft_stats.proposed == 0


def test_the_embedded_edge_model_drafts_for_the_embedded_cloud_model(
    tmp_path: Path, always_drafted: None
) -> None:
    """The pair shares a tokenizer: the small model guesses what the large one writes."""
    if not (CLOUD_MODEL / "config.json").is_file():
        pytest.skip(f"{CLOUD_MODEL} is not there")
    large = tmp_path / "large.gguf"
    convert(CLOUD_MODEL, large, kind="q8_0")
    prompt = "Human: What is 17 + 25?\n"
    with _both(large, EDGE_MODEL) as (plain, drafted):
        for temperature in (0.0, 0.7):
            asked = {"temperature": temperature, "seed": 3, "max_tokens": 60}
            expected = [d.token_ids for d in _ask(plain, prompt, **asked)]
            assert [d.token_ids for d in _ask(drafted, prompt, **asked)] == expected


def test_trained_models_draft_for_themselves_in_fewer_bits(
    stories: Path, stories_gguf: Path, tmp_path: Path, always_drafted: None
) -> None:
    small = tmp_path / "small.gguf"
    convert(stories, small, kind="q8_0")
    with _both(stories_gguf, small) as (plain, drafted):
        asked = "Once upon a time, there was a little girl"
        expected = [d.token_ids for d in _ask(plain, asked, max_tokens=120)]
        assert [d.token_ids for d in _ask(drafted, asked, max_tokens=120)] == expected
        assert drafted.draft_stats.accepted > 0.5 * drafted.draft_stats.proposed > 0
