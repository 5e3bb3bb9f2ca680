from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from offload.errors import ContextLengthError, SettingsError
from offload.messages import Delta, Finish, Message, Request, Sampling

SYSTEM = Message(role="system", content="You are terse.")


def _say(role: str, content: str) -> Message:
    return Message(role=role, content=content)  # type: ignore[arg-type]


def _turn(engine: LlamaEngine, messages: list[Message], max_tokens: int = 20) -> Finish:
    request = Request(messages=tuple(messages), sampling=Sampling(max_tokens=max_tokens))
    *deltas, finish = engine.answer(request)
    text = "".join(delta.text for delta in deltas if isinstance(delta, Delta))
    messages.append(_say("assistant", text))
    assert isinstance(finish, Finish)
    return finish


def _held(engine: LlamaEngine) -> str:
    window = engine.slots.all[0].cache.window
    kept = [t for start, end in window.kept for t in window.stream[start:end]]
    return engine.detokenize(kept).decode("utf-8", "replace")


def test_chat_never_ends_and_says_what_left_the_window(tiny_gguf: Path) -> None:
    engine = LlamaEngine(tiny_gguf, options=LlamaOptions(num_threads=1, window=150))
    assert engine.max_model_len == 154
    messages, dropped = [SYSTEM], []
    for turn in range(25):
        messages.append(_say("user", f"question number {turn}"))
        finish = _turn(engine, messages)
        assert finish.reason in ("stop", "length")
        assert engine.slots.all[0].cache.window.used <= 154
        held = _held(engine)
        assert held.startswith("You are terse.") and f"question number {turn}" in held
        dropped.append(finish.dropped_tokens)
    assert dropped[0] == 0 and dropped[-1] > 500
    assert dropped == sorted(dropped)
    engine.close()


def test_answer_longer_than_the_window_goes_on(tiny_gguf: Path) -> None:
    engine = LlamaEngine(tiny_gguf, options=LlamaOptions(num_threads=1, window=100))
    messages = [SYSTEM, _say("user", "tell me all")]
    finish = _turn(engine, messages, max_tokens=300)
    assert finish.usage.completion_tokens == 300 and finish.dropped_tokens > 180
    assert _held(engine).startswith("You are terse.tell me all")
    engine.close()


def test_yesterdays_long_chat_continues_in_a_small_window(tiny_gguf: Path) -> None:
    engine = LlamaEngine(tiny_gguf, options=LlamaOptions(num_threads=1, window=100))
    old = [_say("user" if n % 2 == 0 else "assistant", f"old words {n}") for n in range(60)]
    finish = _turn(engine, [SYSTEM, *old, _say("user", "and now?")])
    assert finish.dropped_tokens > 500
    held = _held(engine)
    assert held.startswith("You are terse.") and "and now?" in held and "old words 59" in held
    engine.close()


def test_window_off_refuses_what_does_not_fit(tiny_gguf: Path) -> None:
    engine = LlamaEngine(tiny_gguf, options=LlamaOptions(num_threads=1, window=0))
    old = [_say("user" if n % 2 == 0 else "assistant", f"old words {n}") for n in range(60)]
    with pytest.raises(ContextLengthError, match="context length is 256"):
        _turn(engine, [*old, _say("user", "and now?")])
    finish = _turn(engine, [_say("user", "x" * 240)], max_tokens=100)
    assert finish.reason == "length" and finish.dropped_tokens == 0
    engine.close()


def test_newest_turn_longer_than_the_window_is_refused(tiny_gguf: Path) -> None:
    engine = LlamaEngine(tiny_gguf, options=LlamaOptions(num_threads=1, window=100))
    with pytest.raises(ContextLengthError, match="context length is 104 tokens"):
        _turn(engine, [SYSTEM, _say("user", "x" * 120)])
    engine.close()


@pytest.mark.parametrize("head", [32, 64, 128])
@pytest.mark.parametrize("kv", ["auto", "f16", "f16/q4_0", "q8_0", "q4_0"])
def test_every_type_slides_or_says_that_it_cannot(
    tmp_path: Path, make_tiny_gguf: Callable[..., Path], head: int, kv: str
) -> None:
    path = make_tiny_gguf(tmp_path / "m.gguf", head=head)
    options = LlamaOptions(num_threads=1, window=60, kv_cache_dtype=kv)
    if head == 32 and kv in ("q8_0", "q4_0"):
        with pytest.raises(SettingsError, match="cannot slide with heads of 32"):
            LlamaEngine(path, options=options)
        return
    engine = LlamaEngine(path, options=options)
    finish = _turn(engine, [_say("user", "go on")], max_tokens=100)
    assert finish.dropped_tokens > 0
    engine.close()


def test_keys_that_llama_cpp_does_not_rotate_are_not_shifted(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_ATTN_ROT_DISABLE", "1")
    options = LlamaOptions(num_threads=1, window=60, kv_cache_dtype="q8_0")
    with pytest.raises(SettingsError, match="set window to 0"):
        LlamaEngine(tiny_gguf, options=options)


def test_small_windows_are_refused(tiny_gguf: Path) -> None:
    with pytest.raises(SettingsError, match="window is 3"):
        LlamaOptions(window=3)


@pytest.mark.parametrize("kinds", ["f16", "q8_0/f16"])
def test_a_long_plain_cache_slides_and_is_kept_without_flash_attention(
    make_tiny_gguf: Callable[..., Path], tmp_path: Path, kinds: str
) -> None:
    path = make_tiny_gguf(tmp_path / "long.gguf", context_len=4096)
    options = LlamaOptions(
        num_threads=1, num_gpu_layers=0, window=1100, kv_cache_dtype=kinds, session_folder=tmp_path
    )
    engine = LlamaEngine(path, options=options)
    assert not engine.params.flash_attention
    endless = Sampling(max_tokens=1400, logit_bias={257: -100.0})
    turns = (SYSTEM, _say("user", "tell me all"))
    *_, finish = engine.answer(Request(messages=turns, sampling=endless))
    assert isinstance(finish, Finish)
    assert finish.usage.completion_tokens == 1400 and finish.dropped_tokens > 250
    assert _held(engine).startswith("You are terse.tell me all")
    read = tuple(1 + place * 7 % 200 for place in range(600))
    first = _kept(engine, read)
    engine.close()
    after = LlamaEngine(path, options=options)
    again = _kept(after, (*read, 5, 6, 7))
    assert (first, again) == (0, len(read)), "all from the disk"
    after.close()


def _kept(engine: LlamaEngine, tokens: tuple[int, ...]) -> int:
    """Answer a conversation of these tokens; return how many were there already."""
    asked = Request(prompt_token_ids=tokens, sampling=Sampling(max_tokens=2), session="long")
    *_, finish = engine.answer(asked)
    assert isinstance(finish, Finish)
    return finish.usage.cached_tokens
