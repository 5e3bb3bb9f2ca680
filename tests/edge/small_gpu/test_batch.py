"""Several answers at once: each as if it were alone, and none in another's way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from backbone.attention import causal_attention
from backbone.checkpoint import load_network
from backbone.errors import CheckpointError
from backbone.tokenizer import Tokenizer
from edge.small_gpu.runtime import TorchEdgeEngine, TorchOptions
from engine.torch.continuous_batching import Batching
from engine.torch.kv.ring_slots import RingSlots
from engine.torch.request_state import Item
from offload.messages import Delta, Finish, Request, Sampling
from tests.edge.small_gpu.tiny_folders import NEVER_ENDS, SMALL, finish_of
from tests.tiny_checkpoints import write_checkpoint

PROMPTS = (
    "the quick brown fox",
    "what is seventeen plus twenty-five, and how many seconds has an hour? the cat sat on the mat",
    "and",
    "the lazy dog and the cat sat on the mat and the quick brown fox jumps over the lazy dog",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("batch"), "qwen3")


class ByHand:
    """A batch whose steps a test takes itself, and what was posted to each reader."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.engine = TorchEdgeEngine(folder, options=TorchOptions(**SMALL | options))
        self.batch: Batching
        self.slots: RingSlots
        self.batch, self.slots = self.engine.make_batching()

    def ask(self, prompt: str, gone: threading.Event | None = None, **sampling: Any) -> list[Item]:
        values = {"logit_bias": NEVER_ENDS} | sampling
        return self.add(Request(prompt=prompt, sampling=Sampling(**values)), gone)

    def add(self, request: Request, gone: threading.Event | None = None) -> list[Item]:
        posts: list[Item] = []
        self.batch.add(self.engine.make_state(request, posts.append, time.monotonic(), gone))
        return posts

    def finish(self) -> None:
        """Step until nobody waits, and check the books."""
        while self.batch.num_unfinished:
            self.batch.step()
        self.batch.check_integrity()


def tokens(posts: Sequence[Item]) -> list[int]:
    return [token for item in posts if isinstance(item, Delta) for token in item.token_ids]


@pytest.mark.parametrize("kind", ["f16", "int8", "int4"])
def test_each_writes_what_it_would_alone(kind: str, folder: Path) -> None:
    options = {"kv_cache_dtype": kind, "max_num_seqs": 3, "max_num_batched_tokens": 24}
    together = ByHand(folder, **options)
    found = [together.ask(prompt, max_tokens=20 + n) for n, prompt in enumerate(PROMPTS)]
    together.finish()
    for n, (prompt, posts) in enumerate(zip(PROMPTS, found, strict=True)):
        alone = ByHand(folder, **options)
        expected = alone.ask(prompt, max_tokens=20 + n)
        alone.finish()
        assert tokens(posts) == tokens(expected) and len(tokens(posts)) == 20 + n


def test_a_long_prompt_stalls_nobody(folder: Path) -> None:
    by_hand = ByHand(folder, max_num_seqs=2, max_num_batched_tokens=9)
    writer = by_hand.ask("and", max_tokens=60)
    while not writer:
        by_hand.batch.step()
    reader = by_hand.ask(PROMPTS[3], max_tokens=4)
    num_steps = 0
    while not reader:
        before = len(tokens(writer))
        by_hand.batch.step()
        assert len(tokens(writer)) == before + 1, "every step brings the writer a token"
        num_steps += 1
    assert num_steps > 3, "the prompt came in pieces"
    by_hand.finish()


def test_a_prompt_gets_on_however_many_write(folder: Path) -> None:
    by_hand = ByHand(folder, max_num_seqs=4, max_num_batched_tokens=2)
    writers = [by_hand.ask("and", max_tokens=90) for _ in range(3)]
    while not all(writers):
        by_hand.batch.step()
    late = by_hand.ask("the cat sat", max_tokens=2)
    while not late:
        by_hand.batch.step()
    assert not any(isinstance(posts[-1], Finish) for posts in writers)
    by_hand.finish()


def test_who_finds_no_slot_waits_for_the_first_that_is_free(folder: Path) -> None:
    by_hand = ByHand(folder, max_num_seqs=1)
    first, second = by_hand.ask("and", max_tokens=3), by_hand.ask("the", max_tokens=3)
    while not isinstance(first[-1:] and first[-1], Finish):
        assert not second
        by_hand.batch.step()
    by_hand.finish()
    assert len(tokens(second)) == 3 and finish_of(second).usage.queue_s > 0


SYSTEM = f"{PROMPTS[3]} {PROMPTS[1]} "


def test_what_an_answer_under_way_has_read_is_copied_for_another_that_begins_alike(
    folder: Path,
) -> None:
    options = {"max_num_seqs": 2, "kv_cache_dtype": "f16"}
    together = ByHand(folder, **options)
    first = together.ask(SYSTEM + "the cat", max_tokens=8)
    while not first:
        together.batch.step()
    second = together.ask(SYSTEM + "the fox", max_tokens=8)
    together.finish()
    shared = finish_of(second).usage.cached_tokens
    assert shared >= 32 and finish_of(first).usage.cached_tokens == 0
    alone = ByHand(folder, **options)
    expected = alone.ask(SYSTEM + "the fox", max_tokens=8)
    alone.finish()
    assert tokens(second) == tokens(expected)


def test_nothing_is_copied_from_another_asker(folder: Path) -> None:
    by_hand = ByHand(folder, max_num_seqs=2)
    first = by_hand.ask(SYSTEM + "the cat", max_tokens=8)
    while not first:
        by_hand.batch.step()
    asked = Request(prompt=SYSTEM + "the fox", sampling=Sampling(max_tokens=3), cache_salt="other")
    second = by_hand.add(asked)
    by_hand.finish()
    assert finish_of(second).usage.cached_tokens == 0


def test_a_prompts_least_attended_tokens_go_when_it_is_read(folder: Path) -> None:
    by_hand = ByHand(folder, max_num_seqs=1, kv_keep=8)
    posts = by_hand.ask(SYSTEM, max_tokens=8)
    by_hand.finish()
    assert len(tokens(posts)) == 8 and finish_of(posts).dropped_tokens >= 16
    again = by_hand.ask(SYSTEM, max_tokens=8)
    by_hand.finish()
    assert finish_of(again).usage.cached_tokens == 0, "it is read again for another question"
    assert tokens(again) == tokens(posts)


def test_leaving_frees_the_slot(folder: Path) -> None:
    by_hand, gone = ByHand(folder, max_num_seqs=1), threading.Event()
    endless, waiting = by_hand.ask("and", gone, max_tokens=10_000), by_hand.ask("the", max_tokens=2)
    by_hand.batch.step()
    gone.set()
    by_hand.finish()
    assert finish_of(endless).reason == "cancelled"
    assert len(tokens(waiting)) == 2


def test_leaving_in_the_middle_of_a_prompt_leaves_the_slot_sound(folder: Path) -> None:
    by_hand, gone = ByHand(folder, max_num_seqs=2, max_num_batched_tokens=5), threading.Event()
    left = by_hand.ask(PROMPTS[1], gone, max_tokens=5)
    by_hand.batch.step()
    gone.set()
    by_hand.finish()
    again = by_hand.ask(PROMPTS[1], max_tokens=5)
    by_hand.finish()
    fresh = ByHand(folder, max_num_batched_tokens=5)
    expected = fresh.ask(PROMPTS[1], max_tokens=5)
    fresh.finish()
    assert finish_of(left).reason == "cancelled" and tokens(again) == tokens(expected)


def test_a_deadline_counts_while_waiting(folder: Path) -> None:
    by_hand = ByHand(folder, max_num_seqs=1)
    by_hand.ask("and", max_tokens=20)
    late = by_hand.add(Request(prompt="the", deadline_s=0.001))
    by_hand.finish()
    assert finish_of(late).reason == "deadline" and not tokens(late)


def test_a_request_that_breaks_the_step_fails_alone(
    folder: Path, stumble: Callable[[Callable[[list[int]], None]], None]
) -> None:
    by_hand = ByHand(folder, max_num_seqs=3)
    expected = by_hand.ask("and", max_tokens=12)
    by_hand.finish()
    (bad, *_) = Tokenizer(folder).encode("?")

    def check(all_tokens: list[int]) -> None:
        if bad in all_tokens:
            raise RuntimeError("a kernel that dislikes this")

    stumble(check)
    by_hand = ByHand(folder, max_num_seqs=3)
    good, poisoned = by_hand.ask("and", max_tokens=12), by_hand.ask("?", max_tokens=12)
    by_hand.finish()
    assert tokens(good)[:5] == tokens(expected)[:5]
    assert len(poisoned) == 1 and isinstance(poisoned[0], CheckpointError)
    assert "RuntimeError" in str(poisoned[0]) and "dislikes" not in str(poisoned[0])


def test_a_request_whose_numbers_overflow_fails_alone(folder: Path) -> None:
    by_hand = ByHand(folder, max_num_seqs=2)
    expected = by_hand.ask("and", max_tokens=12)
    by_hand.finish()
    by_hand = ByHand(folder, max_num_seqs=2)
    bias = NEVER_ENDS | dict.fromkeys((bad_token(folder),), -100.0)
    with torch.inference_mode():
        by_hand.engine.network.embedding[bad_token(folder)] = float("nan")
    good = by_hand.ask("and", max_tokens=12, logit_bias=bias)
    poisoned = by_hand.ask("?", max_tokens=12)
    by_hand.finish()
    assert len(poisoned) == 1 and "no number" in str(poisoned[0])
    assert tokens(good) == tokens(expected)
    # What came of it is not kept for those who begin alike.
    assert all(
        not slot.stream or bad_token(folder) not in slot.stream for slot in by_hand.slots.free
    )


def bad_token(folder: Path) -> int:
    return Tokenizer(folder).encode("?")[0]


def test_where_memory_runs_out_steps_become_smaller(
    folder: Path, stumble: Callable[[Callable[[list[int]], None]], None]
) -> None:
    by_hand = ByHand(folder, max_num_batched_tokens=64)
    expected = by_hand.ask(PROMPTS[1], max_tokens=5)
    by_hand.finish()
    sizes: list[int] = []

    def check(all_tokens: list[int]) -> None:
        if len(all_tokens) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(all_tokens))

    stumble(check)
    by_hand = ByHand(folder, max_num_batched_tokens=64)
    posts = by_hand.ask(PROMPTS[1], max_tokens=5)
    by_hand.finish()
    assert tokens(posts) == tokens(expected) and max(sizes) == 16


def test_where_no_memory_is_left_it_is_said(
    folder: Path, stumble: Callable[[Callable[[list[int]], None]], None]
) -> None:
    def check(all_tokens: list[int]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    stumble(check)
    by_hand = ByHand(folder)
    posts = by_hand.ask(PROMPTS[1])
    by_hand.finish()
    assert len(posts) == 1 and "edge.max_model_len" in str(posts[0])


@pytest.mark.usefixtures("always_drafted")
@pytest.mark.parametrize("kind", ["f16", "int4"])
def test_drafts_change_the_speed_and_no_token(
    kind: str, folder: Path, stumble: Callable[[Callable[[list[int]], None]], None]
) -> None:
    prompt = " ".join(["the cat sat on the mat"] * 4)
    plain = ByHand(folder, kv_cache_dtype=kind)
    expected = plain.ask(prompt, max_tokens=70)
    plain.finish()
    sizes: list[int] = []
    stumble(lambda all_tokens: sizes.append(len(all_tokens)))
    drafting = ByHand(folder, kv_cache_dtype=kind, max_draft_tokens=6)
    # What a model of random weights says is said before, so that drafts come true.
    said = Tokenizer(folder).decode(tokens(expected))
    first = drafting.ask(prompt, max_tokens=70)
    drafting.finish()
    assert tokens(first) == tokens(expected) and said
    assert any(1 < size <= 7 for size in sizes[1:]), "nothing was drafted"


def test_a_prompt_can_be_scored_beside_others(folder: Path) -> None:
    network, prompt = load_network(folder), Tokenizer(folder).encode(PROMPTS[1])
    ids = torch.tensor([prompt])
    hidden = network(ids, torch.arange(len(prompt)).unsqueeze(0), causal_attention(network.config))
    logprobs = network.logits(hidden)[0].log_softmax(-1)
    by_hand = ByHand(folder, kv_cache_dtype="f16", max_num_seqs=2, max_num_batched_tokens=10)
    by_hand.ask("and", max_tokens=30)
    posts = by_hand.ask(PROMPTS[1], max_tokens=2, prompt_logprobs=True, logprobs=2)
    by_hand.finish()
    assert isinstance(posts[0], Delta)
    scored = posts[0].prompt_tokens
    assert [each.token_id for each in scored] == prompt and scored[0].logprob is None
    for at, each in enumerate(scored[1:]):
        assert each.logprob == pytest.approx(float(logprobs[at, prompt[at + 1]]), abs=2e-3)
        best = float(logprobs[at].max())
        assert each.alternatives[0].logprob == pytest.approx(best, abs=2e-3)
