"""What must stay of a prompt that is too long, and what becomes of the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backbone.tokenizer import Tokenizer
from edge.small_gpu.runtime import TorchEdgeEngine, TorchOptions
from engine.torch.kv.ring_slots import PromptChunks
from engine.torch.prompt import pinned, prompt_tokens
from offload.errors import ContextLengthError
from offload.messages import Delta, Finish, Message, Request, Sampling
from tests.tiny_checkpoints import write_checkpoint

SYSTEM = Message(role="system", content="the cat sat on the mat")
LAST = Message(role="user", content="how many seconds?")
NEVER_ENDS = {0: -100.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("words"), "llama")


def conversation(num_turns: int, **sampling: Any) -> Request:
    old = [
        Message(role=role, content=f"{text} {n}")
        for n in range(num_turns)
        for role, text in (("user", "the quick brown fox"), ("assistant", "jumps over"))
    ]
    return Request(messages=(SYSTEM, *old, LAST), sampling=Sampling(**sampling))


@pytest.mark.parametrize("num_turns", [1, 5])
def test_the_system_prompt_and_the_last_user_turn_are_pinned(num_turns: int, folder: Path) -> None:
    tokenizer, request = Tokenizer(folder), conversation(num_turns)
    tokens = prompt_tokens(tokenizer, request)
    pins = pinned(tokenizer, request, tokens)
    first = tokenizer.decode(tokens[: pins.num_first])
    last = tokenizer.decode(tokens[pins.last_start : pins.last_end])
    assert first == SYSTEM.content and last == LAST.content, "headers are control tokens"
    assert pins.last_end == len(tokens)


def test_a_single_turn_and_a_raw_prompt_are_pinned_whole(folder: Path) -> None:
    tokenizer = Tokenizer(folder)
    for request in (Request(messages=(LAST,)), Request(prompt="the cat")):
        tokens = prompt_tokens(tokenizer, request)
        assert pinned(tokenizer, request, tokens).num_tokens == len(tokens)


def test_a_template_that_drops_old_turns_pins_no_less(folder: Path, tmp_path: Path) -> None:
    import shutil

    forgetful = tmp_path / "forgetful"
    shutil.copytree(folder, forgetful)
    template = "{% for m in messages[-1:] %}<|user|>{{ m['content'] }}{% endfor %}"
    (forgetful / "chat_template.jinja").write_text(template)
    tokenizer, request = Tokenizer(forgetful), conversation(2)
    tokens = prompt_tokens(tokenizer, request)
    assert pinned(tokenizer, request, tokens).last_start == 0


@pytest.fixture
def engine(folder: Path) -> Iterator[TorchEdgeEngine]:
    engine = TorchEdgeEngine(folder, options=TorchOptions(device="cpu", window=80, kv_block=8))
    yield engine
    engine.close()


def test_a_long_conversation_is_read_without_its_middle(engine: TorchEdgeEngine) -> None:
    request = conversation(12, max_tokens=50, logit_bias=NEVER_ENDS)
    *deltas, finish = engine.answer(request)
    assert isinstance(finish, Finish) and finish.usage.completion_tokens == 50 == len(deltas)
    num_read = finish.usage.prompt_tokens + 49
    (slot,) = engine.slots.free
    pins = pinned(engine.tokenizer, request, prompt_tokens(engine.tokenizer, request))
    assert slot.ring.holds(0, pins.num_first) and slot.ring.holds(pins.last_start, pins.last_end)
    assert not slot.ring.holds(pins.num_first, pins.last_start)
    assert finish.dropped_tokens == num_read - slot.ring.used > 0
    assert slot.ring.used <= slot.ring.limit


def test_the_next_turn_goes_on_from_what_is_held(engine: TorchEdgeEngine) -> None:
    request = conversation(12, max_tokens=5, logit_bias=NEVER_ENDS)
    *deltas, _ = engine.answer(request)
    said = "".join(delta.text for delta in deltas if isinstance(delta, Delta))
    answered = Message(role="assistant", content=said)
    turns = (*request.messages, answered, Message(role="user", content="and the dog?"))
    *_, finish = engine.answer(Request(messages=turns, sampling=Sampling(max_tokens=5)))
    assert isinstance(finish, Finish)
    new = finish.usage.prompt_tokens - finish.usage.cached_tokens
    assert new < 40, "what was said before is not read again"


def test_pins_that_do_not_fit_are_refused(engine: TorchEdgeEngine) -> None:
    long = Message(role="user", content="how many seconds has an hour? " * 20)
    with pytest.raises(ContextLengthError, match="context length is 84 tokens"):
        list(engine.answer(Request(messages=(SYSTEM, long))))
    whole = Request(prompt="the cat sat on the mat " * 40)
    with pytest.raises(ContextLengthError):
        list(engine.answer(whole))
    # The engine goes on.
    assert list(engine.answer(conversation(1, max_tokens=2)))


def test_a_prompt_is_read_chunk_by_chunk_and_piece_by_piece(engine: TorchEdgeEngine) -> None:
    request = conversation(12)
    sequence = engine.make_state(request, lambda item: None, time.monotonic()).sequence
    _, slots = engine.make_batching()
    prompt, about = sequence.tokens, sequence.conversation
    slot = slots.take(about.session, prompt, about.owner)
    assert slot is not None
    reading, pieces = PromptChunks(slot, prompt, about.pins, reuse=True), []
    while not reading.done:
        pieces.append(piece := reading.piece(7))
        reading.took(piece)
    assert max(map(len, pieces)) == 7
    assert slot.stream == prompt, "what is skipped counts as part of the stream"
    assert slot.ring.num_read == len(prompt)
    read = [at for piece in pieces for at in piece]
    assert read == sorted(read) and len(read) < len(prompt)
