"""Answers of the torch runtime that go on inside a token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from backbone.sampling import Sampler, SamplingValues
from backbone.tokenizer import Tokenizer
from edge.small_gpu.runtime import TorchEdgeEngine, TorchOptions
from engine.torch.prompt import begun, prompt_tokens
from engine.torch.token_healing import TextConstraints
from offload.errors import RequestError
from offload.messages import Delta, Finish, Message, Request, Sampling
from offload.pair import CLOUD_MODEL

OPTIONS: dict[str, Any] = {"device": "cpu", "kv_cache_dtype": "f16", "num_threads": 1}
ASKED = (Message(role="user", content="How many seconds has an hour? Tell me in one sentence."),)


@pytest.fixture(scope="module")
def engine() -> Iterator[TorchEdgeEngine]:
    engine = TorchEdgeEngine(CLOUD_MODEL, options=TorchOptions(**OPTIONS))
    yield engine
    engine.close()


def told(engine: TorchEdgeEngine, prefix: str, **sampling: Any) -> tuple[str, list[int]]:
    values = {"max_tokens": 24} | sampling
    request = Request(messages=ASKED, answer_prefix=prefix, sampling=Sampling(**values))
    *deltas, finish = engine.answer(request)
    assert isinstance(finish, Finish) and finish.error is None
    tokens = [token for delta in deltas if isinstance(delta, Delta) for token in delta.token_ids]
    assert finish.usage.completion_tokens == len(tokens)
    return "".join(delta.text for delta in deltas if isinstance(delta, Delta)), tokens


def parts(engine: TorchEdgeEngine, request: Request) -> tuple[list[int], list[int], bytes]:
    tokenizer = engine.tokenizer
    whole = prompt_tokens(tokenizer, request)
    return whole, *begun(tokenizer, engine.text_constraints.healer, request, whole)


def test_an_answer_cut_anywhere_goes_on_as_it_was(engine: TorchEdgeEngine) -> None:
    whole, _ = told(engine, "")
    assert len(whole) > 12
    for cut in range(1, len(whole)):
        rest, _ = told(engine, whole[:cut], max_tokens=4)
        assert rest and whole[cut:].startswith(rest), f"cut behind {whole[:cut]!r}"


def test_what_is_taken_back_and_what_is_read_are_the_whole_prompt(engine: TorchEdgeEngine) -> None:
    word = "seconds"
    request = Request(messages=ASKED, answer_prefix=word[:4])
    whole, kept, text = parts(engine, request)
    assert text and word[:4].encode().endswith(text)
    assert kept == whole[: len(kept)]
    assert engine.tokenizer.decode(kept) + text.decode() == engine.tokenizer.decode(whole)


@pytest.mark.parametrize("way", [{"temperature": 1.0, "seed": 3}, {"repetition_penalty": 1.3}])
def test_the_first_tokens_spell_what_was_taken_back(
    engine: TorchEdgeEngine, way: dict[str, Any]
) -> None:
    prefix = "An hour has 3600 secon"
    request = Request(messages=ASKED, answer_prefix=prefix)
    _, _, text = parts(engine, request)
    assert text
    rest, tokens = told(engine, prefix, **way)
    pieces = b"".join(map(engine.tokenizer.token_bytes, tokens))
    assert pieces.startswith(text) or rest.encode() == pieces


def test_a_schema_and_a_judged_prompt_read_the_beginning_as_it_stands(
    engine: TorchEdgeEngine,
) -> None:
    for asked in (Sampling(json_schema={"type": "string"}), Sampling(prompt_logprobs=True)):
        request = Request(messages=ASKED, answer_prefix='"secon', sampling=asked)
        whole, kept, text = parts(engine, request)
        assert (kept, text) == (whole, b"")


@pytest.mark.parametrize(
    ("prompt", "prefix", "spelled"),
    [
        ("an hour has secon", "", b""),
        ("secon", "ds", b""),
        ("an hour has ", "secon", b" secon"),  # one token across the border of both
    ],
)
def test_what_lies_before_the_answers_beginning_is_not_taken_back(
    engine: TorchEdgeEngine, prompt: str, prefix: str, spelled: bytes
) -> None:
    _, kept, text = parts(engine, Request(prompt=prompt, answer_prefix=prefix))
    assert kept and text == spelled
    assert engine.tokenizer.decode(kept) + text.decode() == prompt + prefix


@pytest.mark.usefixtures("always_drafted")
def test_drafts_wait_until_the_beginning_is_spelled(tmp_path: Path) -> None:
    engine = TorchEdgeEngine(CLOUD_MODEL, options=TorchOptions(**OPTIONS, max_draft_tokens=8))
    plain = TorchEdgeEngine(CLOUD_MODEL, options=TorchOptions(**OPTIONS))
    for prefix in ("An hour has 36", "An hour ha", "How many seconds has an hour? How many seco"):
        assert told(engine, prefix) == told(plain, prefix)
    engine.close()
    plain.close()


def test_a_model_that_cannot_spell_it_is_told_and_the_next_answer_is_whole(
    engine: TorchEdgeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, prefix = told(engine, ""), "An hour has 3600 secon"
    _, _, text = parts(engine, Request(messages=ASKED, answer_prefix=prefix))
    logits, binding = (
        engine.network.logits,
        engine.text_constraints.bind(text, Sampler(SamplingValues())),
    )
    assert binding is not None
    spelling = torch.from_numpy(binding.allowed())
    with monkeypatch.context() as patch:
        silent = lambda hidden: logits(hidden).masked_fill(spelling, float("-inf"))  # noqa: E731
        patch.setattr(engine.network, "logits", silent)
        with pytest.raises(RequestError, match="end it earlier"):
            told(engine, prefix)
    assert told(engine, "") == expected


def test_every_byte_of_the_vocabulary_is_known(engine: TorchEdgeEngine) -> None:
    tokenizer = Tokenizer(CLOUD_MODEL)
    spelled = TextConstraints(tokenizer, tokenizer.vocab_size).healer.spellings.beginning_with(b"")
    written = [t for t in range(tokenizer.max_token_id + 1) if tokenizer.token_bytes(t)]
    assert sorted(spelled) == written
