from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from engine.draft_gate import StepTimes
from engine.prompt_lookup import PromptLookup
from offload.errors import SettingsError
from offload.messages import Delta, Finish, Request, Sampling


def test_proposes_what_followed_the_last_time() -> None:
    lookup = PromptLookup([1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3], max_draft=4)
    assert lookup.propose(10) == [4, 5, 6, 7]
    assert lookup.propose(2) == [4, 5]
    assert lookup.propose(0) == []


def test_the_latest_occurrence_wins() -> None:
    lookup = PromptLookup([1, 2, 3, 4, 0, 1, 2, 3, 5, 0, 1, 2, 3], max_draft=1)
    assert lookup.propose(1) == [5]


def test_text_without_repetition_is_never_drafted() -> None:
    lookup = PromptLookup(range(100), max_draft=8)
    assert lookup.propose(8) == []


@pytest.mark.parametrize("tokens", [[], [1], [1, 2, 3], [1, 2, 3, 4, 5, 6]])
def test_short_texts_are_never_drafted(tokens: list[int]) -> None:
    assert PromptLookup(tokens, max_draft=4).propose(4) == []


def test_a_cycle_goes_on_beyond_what_was_said() -> None:
    lookup = PromptLookup([3, 4, 3, 4, 3, 4], max_draft=5, times=StepTimes(token_cost=0.0))
    assert lookup.propose(5) == [3, 4, 3, 4, 3]


def test_wrong_copies_end_drafts_and_right_ones_bring_them_back() -> None:
    lookup = PromptLookup([1, 2, 3, 0], max_draft=4, times=StepTimes(token_cost=0.1))
    for number in range(100):  # what followed 1, 2, 3 never follows again
        for token in (1, 2, 3, 10 + number):
            lookup.add(token)
    for token in (1, 2, 3):
        lookup.add(token)
    assert lookup.propose(4) == []
    for _ in range(20):
        for token in (7, 1, 2, 3):
            lookup.add(token)
    assert len(lookup.propose(4)) == 4


class Steps(StepTimes):
    """Steps of which each further token costs the same share of one."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self._slope = slope

    def ratio(self, num_tokens: int) -> float:
        return 1 + self._slope * (num_tokens - 1)


def test_drafts_are_as_long_as_pays() -> None:
    text = [*range(100), 0, 1, 2]
    long, short, none = (
        len(PromptLookup(text, max_draft=15, times=Steps(slope)).propose(20))
        for slope in (0.02, 0.45, 0.9)
    )
    assert long > short > none == 0


def test_right_guesses_lengthen_drafts_and_wrong_ones_end_them() -> None:
    """Whether a copy would have been right is seen without drafting, so they come again."""
    text = list(range(300))
    lookup = PromptLookup([*text, 0, 1, 2], max_draft=15, times=Steps(0.3))
    first = len(lookup.propose(20))
    for token in text[3:40]:
        lookup.add(token)
    assert len(lookup.propose(20)) > first
    noise = random.Random(1)
    lookup = PromptLookup([*text, 0, 1, 2], max_draft=15, times=Steps(0.3))
    for _ in range(40):
        start = noise.randrange(290)
        for token in (*text[start : start + 3], 1000):  # what follows is never what did
            lookup.add(token)
    for token in text[50:53]:
        lookup.add(token)
    assert lookup.propose(20) == []
    for token in text[53:90]:
        lookup.add(token)
    assert lookup.propose(20)


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 15))
def test_drafts_are_always_text_that_was_said(tokens: list[int], limit: int) -> None:
    draft = PromptLookup(tokens, max_draft=15).propose(limit)
    # A cycle may run into its own copy.
    text = "".join(map(str, [*tokens, *draft[:-1]]))
    assert len(draft) <= limit and "".join(map(str, draft)) in text


@pytest.fixture(autouse=True)
def _drafted(always_drafted: None) -> None:
    """Not as the clock of this machine has it."""


def _ask(engine: LlamaEngine, prompt: str, **sampling: object) -> tuple[list[Delta], Finish]:
    settings = Sampling(**{"max_tokens": 120, **sampling})  # type: ignore[arg-type]
    *deltas, finish = engine.answer(Request(prompt=prompt, sampling=settings))
    return deltas, finish  # type: ignore[return-value]


def _both(path: Path, prompt: str, **sampling: object) -> tuple[int, int]:
    """Compare answers with and without drafts; return the decode calls of each."""
    found, calls = [], []
    for drafts in (0, 8):
        engine = LlamaEngine(path, options=LlamaOptions(num_threads=1, max_draft_tokens=drafts))
        count, decode = [0], engine.context.decode

        def counting(tokens, position, count=count, decode=decode, **options):
            count[0] += 1
            decode(tokens, position, **options)

        engine.context.decode = counting  # type: ignore[method-assign]
        for _ in range(2):
            deltas, finish = _ask(engine, prompt, **sampling)
            found.append(([d.token_ids for d in deltas], "".join(d.text for d in deltas)))
            assert finish.usage.completion_tokens == sum(len(d.token_ids) for d in deltas)
        calls.append(count[0])
        engine.close()
    assert found[0] == found[1] == found[2] == found[3]
    return calls[0], calls[1]


@pytest.mark.parametrize("prompt", ["abcabcabcabc", "hello there"])
def test_greedy_answers_are_the_same_with_drafts(tiny_gguf: Path, prompt: str) -> None:
    _both(tiny_gguf, prompt)


ONCE = "Once upon a time, there was a little girl named Lily. "


def test_answers_that_repeat_take_fewer_steps(stories_gguf: Path) -> None:
    without, with_drafts = _both(stories_gguf, ONCE * 2 + "Once upon a time, there was")
    assert with_drafts < without


class Guesser(PromptLookup):
    """Drafts the first tokens of what will be said, and then nonsense."""

    def __init__(self, answer: list[int], seed: int) -> None:
        super().__init__([], max_draft=15)
        self._answer = answer
        self._random = random.Random(seed)
        self.verdicts: list[tuple[int, int]] = []

    def propose(self, limit: int) -> list[int]:
        said = len(self._tokens)
        right = self._answer[said : said + self._random.randint(0, 9)]
        return [*right, *(self._random.randint(0, 255) for _ in range(3))][: max(0, limit)]

    def observe(self, num_proposed: int, num_accepted: int, seconds: float = 0.0) -> None:
        self.verdicts.append((num_proposed, num_accepted))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("window", [None, 60])
def test_drafts_half_right_change_nothing(
    tiny_gguf: Path, seed: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In float32, since a batch of several tokens may round otherwise than one.
    known = {"num_threads": 1, "window": window, "kv_cache_dtype": "f32", "flash_attention": False}
    plain = LlamaEngine(tiny_gguf, options=LlamaOptions(**known))  # type: ignore[arg-type]
    expected = [d.token_ids[0] for d in _ask(plain, "hello", max_tokens=50)[0] if d.token_ids]
    plain.close()
    engine = LlamaEngine(tiny_gguf, options=LlamaOptions(**known))  # type: ignore[arg-type]
    guesser = Guesser(expected, seed)
    monkeypatch.setattr(engine.generation, "make_drafter", lambda prompt, pins, owner: guesser)
    deltas, _ = _ask(engine, "hello", max_tokens=50)
    assert [d.token_ids[0] for d in deltas if d.token_ids] == expected
    assert 0 < sum(right for _, right in guesser.verdicts) < sum(n for n, _ in guesser.verdicts)
    stream = engine.slots.all[0].cache.window.stream
    assert stream[5:] == expected[: len(stream) - 5], "nothing that was not said is held"
    engine.close()


def test_sampled_answers_are_the_same_with_drafts(stories_gguf: Path) -> None:
    story = ONCE * 2 + "Once upon a time, there was"
    _both(stories_gguf, story, temperature=0.5, seed=5, repetition_penalty=1.05)


def test_stop_in_the_middle_of_a_draft_is_the_same(stories_gguf: Path) -> None:
    _both(stories_gguf, ONCE * 2 + "Once upon a time, there was", stop=("named",))


def test_drafts_do_not_outrun_the_window(tiny_gguf: Path) -> None:
    options = LlamaOptions(num_threads=1, max_draft_tokens=15, window=60)
    engine = LlamaEngine(tiny_gguf, options=options)
    deltas, finish = _ask(engine, "abcabcabc", max_tokens=200)
    assert finish.usage.completion_tokens == len([d for d in deltas if d.token_ids]) > 60
    assert engine.slots.all[0].cache.window.used <= 64
    engine.close()


def test_more_drafts_than_rows_of_logits_are_refused() -> None:
    with pytest.raises(SettingsError, match="max_draft_tokens is 16"):
        LlamaOptions(max_draft_tokens=16)
