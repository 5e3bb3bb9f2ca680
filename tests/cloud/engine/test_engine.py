"""The engine writes transformers' tokens, and every ending is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from backbone.attention import causal_attention
from backbone.checkpoint import load_network
from backbone.errors import CheckpointError, NearfarError
from backbone.fused_network import FusedNetwork
from backbone.tokenizer import Tokenizer
from cloud.engine.engine import CloudEngine
from engine.torch.memory import run_largest_step
from engine.torch.options import EngineOptions
from offload import reading
from offload.engine import Engine
from offload.errors import ContextLengthError, EngineStopped, SettingsError
from offload.messages import Message, Request
from offload.pair import CLOUD_MODEL
from tests.cloud.golden import answer, ask, reference_tokens, text_of, tokens_of
from tests.tiny_checkpoints import FAMILIES, SHARED_MODELS, write_checkpoint

CPU = EngineOptions(device="cpu")
PROMPTS = ["the cat", "what is seventeen plus twenty-five, and how many seconds has an hour?", "é"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"), "qwen3-tied")


@pytest.fixture
async def engine(folder: Path) -> AsyncIterator[CloudEngine]:
    engine = CloudEngine(folder, options=CPU)
    yield engine
    await engine.aclose()


async def assert_golden(folder: Path, prompts: list[str], max_tokens: int) -> None:
    engine = CloudEngine(folder, options=CPU)
    for prompt in prompts:
        deltas, _ = await answer(engine, ask(prompt, max_tokens=max_tokens))
        assert len(set(tokens_of(deltas))) > 1
        assert tokens_of(deltas) == reference_tokens(folder, prompt, max_tokens), prompt
    await engine.aclose()


@pytest.mark.parametrize("family", list(FAMILIES))
async def test_greedy_tokens_equal_transformers(family: str, tmp_path: Path) -> None:
    await assert_golden(write_checkpoint(tmp_path, family), PROMPTS, 40)


async def test_the_embedded_model_answers_as_in_transformers() -> None:
    if not (CLOUD_MODEL / "model.safetensors").is_file():
        pytest.skip("the embedded cloud model is absent")
    engine = CloudEngine(CLOUD_MODEL, options=CPU)
    for question in ("What is 17 + 25?", "How many seconds are in 3 hours?", "Hello!"):
        request = Request(messages=(Message(role="user", content=question),))
        deltas, finish = await answer(engine, request)
        prompt = Tokenizer(CLOUD_MODEL).encode_chat([{"role": "user", "content": question}])
        assert tokens_of(deltas) == reference_tokens(CLOUD_MODEL, prompt, 256)
        assert finish.reason == "stop"
    await engine.aclose()


@pytest.mark.parametrize("name", ["stories260K", "stories3M"])
async def test_trained_models_write_transformers_stories(name: str) -> None:
    folder = SHARED_MODELS / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    prompts = ["Once upon a time, there was a little girl", "The dog said"]
    await assert_golden(folder, prompts, 60)


async def test_the_engine_is_an_engine_and_its_card_says_what_it_runs(engine: CloudEngine) -> None:
    assert isinstance(engine, Engine)
    card = engine.card()
    assert (card.architecture, card.runtime, card.quantization) == ("qwen3", "torch", "f32")
    assert card.max_model_len == 128 and card.chat
    assert card.size_bytes == 4 * card.num_parameters


async def test_deltas_are_numbered_and_signed_and_the_route_is_told(engine: CloudEngine) -> None:
    deltas, finish = await answer(engine, ask(max_tokens=9))
    carrying = [delta for delta in deltas if delta.token_ids]
    assert [delta.index for delta in carrying] == list(range(len(carrying)))
    assert {delta.source for delta in deltas} == {"cloud"}
    assert finish.route is not None and finish.route.served_by == "cloud"
    assert finish.usage.completion_tokens == len(carrying)


async def test_the_text_is_that_of_the_tokens(engine: CloudEngine, folder: Path) -> None:
    deltas, _ = await answer(engine, ask(max_tokens=50, temperature=1.5, seed=4))
    assert text_of(deltas) == Tokenizer(folder).decode(tokens_of(deltas))


async def test_confidence_is_the_networks_own(engine: CloudEngine, folder: Path) -> None:
    deltas, _ = await answer(engine, ask(max_tokens=5))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt, made = Tokenizer(folder).encode("the cat"), tokens_of(deltas)
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + made])).logits[0, len(prompt) - 1 : -1]
    logprobs = torch.log_softmax(logits, -1)
    shown = [delta.confidence[0] for delta in deltas if delta.token_ids]
    for sureness, row, token in zip(shown, logprobs, made, strict=True):
        assert sureness.logprob == pytest.approx(float(row[token]), abs=1e-3)


async def test_max_tokens_ends_with_length(engine: CloudEngine) -> None:
    deltas, finish = await answer(engine, ask(max_tokens=3))
    assert (len(tokens_of(deltas)), finish.reason) == (3, "length")


async def test_the_end_of_the_context_ends_with_length(folder: Path) -> None:
    engine = CloudEngine(folder, options=EngineOptions(device="cpu", max_model_len=16))
    deltas, finish = await answer(engine, ask("é", max_tokens=1_000_000))
    assert (len(tokens_of(deltas)), finish.reason) == (14, "length")
    await engine.aclose()


async def test_a_stop_string_is_not_shown(engine: CloudEngine) -> None:
    deltas, _ = await answer(engine, ask(max_tokens=20))
    whole = text_of(deltas)
    stop = whole[6:9]
    deltas, finish = await answer(engine, ask(max_tokens=20, stop=(stop,)))
    assert text_of(deltas) == whole[: whole.index(stop)]
    assert finish.reason == "stop"


async def test_the_end_token_ends_with_stop_and_adds_nothing(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    first = CloudEngine(copy, options=CPU)
    tokens = tokens_of((await answer(first, ask(max_tokens=8)))[0])
    await first.aclose()
    settings = json.loads((copy / "generation_config.json").read_text())
    (copy / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": tokens[4]}))
    engine = CloudEngine(copy, options=CPU)
    deltas, finish = await answer(engine, ask(max_tokens=8))
    assert tokens_of(deltas) == tokens[: tokens.index(tokens[4])]
    assert finish.reason == "stop"
    await engine.aclose()


async def test_a_seed_repeats_an_answer_and_another_seed_does_not(engine: CloudEngine) -> None:
    texts = [
        text_of((await answer(engine, ask(max_tokens=30, temperature=1.0, seed=seed)))[0])
        for seed in (5, 5, 6)
    ]
    assert texts[0] == texts[1] != texts[2]


async def test_messages_are_asked_through_the_template(engine: CloudEngine, folder: Path) -> None:
    request = Request(messages=(Message(role="user", content="<|end|>"),))
    _, finish = await answer(engine, request)
    expected = Tokenizer(folder).encode_chat([{"role": "user", "content": "<|end|>"}])
    assert finish.usage.prompt_tokens == len(expected)


async def test_leaving_early_frees_the_engine_for_the_next(engine: CloudEngine) -> None:
    stream = engine.generate(ask(max_tokens=100))
    await anext(stream)
    await stream.aclose()
    _, finish = await answer(engine, ask(max_tokens=2))
    assert finish.reason == "length"


async def test_a_passed_deadline_ends_the_answer(engine: CloudEngine) -> None:
    _, finish = await answer(engine, ask(max_tokens=100, deadline_s=0.001))
    assert finish.reason == "deadline"


async def test_a_prompt_over_the_context_is_refused(engine: CloudEngine) -> None:
    with pytest.raises(
        ContextLengthError, match=r"^This model.s maximum context length is 128 tokens"
    ):
        await answer(engine, ask("cat " * 200))


async def test_a_refused_request_leaves_the_engine_well(engine: CloudEngine) -> None:
    with pytest.raises(ContextLengthError):
        await answer(engine, ask("cat " * 200))
    assert (await answer(engine, ask(max_tokens=2)))[1].reason == "length"


async def test_a_closed_engine_says_so(folder: Path) -> None:
    engine = CloudEngine(folder, options=CPU)
    await engine.aclose()
    with pytest.raises(EngineStopped, match="closed"):
        await answer(engine, ask())


def test_a_foreign_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    raw = json.loads((copy / "tokenizer.json").read_text())
    raw["added_tokens"].append({**raw["added_tokens"][0], "id": 320, "content": "<|more|>"})
    (copy / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match="different models"):
        CloudEngine(copy, options=CPU)


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(NearfarError, match="there is no folder"):
        CloudEngine(tmp_path / "absent", options=CPU)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_model_len": -1}, "max_model_len is -1"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"attention_backend": "magic"}, "attention_backend is 'magic'.*torch"),
        ({"device": "cpu", "enforce_eager": False}, "enforce_eager is False.*need a GPU"),
        ({"max_num_seqs": 0}, "max_num_seqs is 0; it must be 1 or more"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization is 1.5"),
    ],
)
def test_a_wrong_option_names_field_value_and_choice(options: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        EngineOptions(**options)


def test_a_context_beyond_the_models_own_is_refused(folder: Path) -> None:
    with pytest.raises(SettingsError, match="the model's context is 128"):
        CloudEngine(folder, options=EngineOptions(device="cpu", max_model_len=129))


def test_a_cache_below_one_sequence_is_refused(folder: Path) -> None:
    with pytest.raises(SettingsError, match="num_gpu_blocks_override is 7 blocks of 16"):
        CloudEngine(folder, options=EngineOptions(device="cpu", num_gpu_blocks_override=7))


@pytest.mark.parametrize("fuse", [True, False])
def test_the_largest_step_runs_whatever_the_context(folder: Path, fuse: bool) -> None:
    network = load_network(folder)
    runnable = FusedNetwork(network, max_model_len=16) if fuse else network
    options = EngineOptions(device="cpu", max_num_batched_tokens=50, max_num_seqs=60)
    run_largest_step(runnable, options, 16, causal_attention(runnable.config))


@pytest.mark.parametrize("overlapped", [False, True])
async def test_how_much_of_a_long_prompt_has_been_read_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, overlapped: bool
) -> None:
    monkeypatch.setattr(reading, "LEAST_TOKENS", 32)
    options = EngineOptions(device="cpu", max_num_batched_tokens=32, async_scheduling=overlapped)
    engine = CloudEngine(folder, options=options)
    heard: list[tuple[int, int]] = []
    with reading.heard_by(lambda num_read, num_tokens, _: heard.append((num_read, num_tokens))):
        _, finish = await answer(engine, ask("the cat sat on the mat " * 8, max_tokens=1))
        total, first = finish.usage.prompt_tokens, list(heard)
        await answer(engine, ask("the cat sat on the mat " * 8, max_tokens=1))
    await engine.aclose()
    assert first[0] == (0, total) and len(first) >= total // 32
    assert first == sorted(first) and all(of == total for _, of in first)
    assert len(heard) == len(first)  # the second time nearly all of it was in the cache
