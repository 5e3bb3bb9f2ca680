from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from backbone.attention import causal_attention
from backbone.errors import CheckpointError, MissingExtra, NearfarError
from backbone.tokenizer import Tokenizer
from edge.near.edge_factory import open_edge
from edge.small_gpu.runtime import TorchEdgeEngine, TorchOptions
from engine.torch.step import Slice, StepResult
from offload import reading
from offload.config.places import Places
from offload.config.settings import EdgeSettings, Settings
from offload.engine import Engine
from offload.errors import ContextLengthError, RequestError, SettingsError, Unsupported
from offload.messages import Delta, Finish, Message, Request, Sampling
from offload.pair import CLOUD_MODEL
from offload.reading import heard_by
from quantize.calibration import CalibrationOptions
from quantize.gptq import GptqOptions
from quantize.gptq_folder import quantize_gptq
from quantize.loading import as_decoded, read_network
from quantize.model_files import FolderFiles
from tests.tiny_checkpoints import FAMILIES, write_checkpoint

FULL = TorchOptions(kv_cache_dtype="f16", device="cpu", kv_block=8, kv_residual=8)
QUESTION = Request(messages=(Message(role="user", content="What is 4821 + 3977?"),))


@pytest.fixture(scope="module")
def engine() -> Iterator[TorchEdgeEngine]:
    yield TorchEdgeEngine(CLOUD_MODEL, options=TorchOptions(device="cpu"))


def asked(text: str, **sampling: Any) -> Request:
    return Request(messages=(Message(role="user", content=text),), sampling=Sampling(**sampling))


def said(engine: TorchEdgeEngine, request: Request) -> tuple[str, list[Delta], Finish]:
    *deltas, finish = engine.answer(request)
    assert isinstance(finish, Finish)
    words = [delta for delta in deltas if isinstance(delta, Delta)]
    return "".join(delta.text for delta in words), words, finish


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = write_checkpoint(tmp_path / family, family)
    engine = TorchEdgeEngine(folder, options=FULL)
    request = Request(prompt="the quick brown fox jumps", sampling=Sampling(max_tokens=40))
    prompt = Tokenizer(folder).encode("the quick brown fox jumps")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    expected = model.generate(
        torch.tensor([prompt]), max_new_tokens=40, do_sample=False, pad_token_id=0
    )[0, len(prompt) :].tolist()
    _, deltas, _ = said(engine, request)
    found = [token for delta in deltas for token in delta.token_ids]
    assert found == [token for token in expected if token != 0]


def test_a_gptq_folder_writes_what_its_dequantized_network_would(tmp_path: Path) -> None:
    options = GptqOptions(group_size=64, desc_act=True)
    few = CalibrationOptions(num_windows=4, window_len=64)
    folder = quantize_gptq(CLOUD_MODEL, tmp_path / "q", options=options, calibration=few).path
    network, tokenizer = read_network(FolderFiles(folder), made=as_decoded), Tokenizer(folder)
    prompt = tokenizer.encode_chat([{"role": "user", "content": "What is 4821 + 3977?"}])
    tokens = list(prompt)
    for _ in range(12):
        ids, places = torch.tensor([tokens]), torch.arange(len(tokens)).unsqueeze(0)
        with torch.no_grad():
            hidden = network(ids, places, causal_attention(network.config))
        tokens.append(int(network.logits(hidden)[0, -1].argmax()))
    for fast in (False, True):
        engine = TorchEdgeEngine(
            folder, options=TorchOptions(kv_cache_dtype="f16", device="cpu", fast_linear=fast)
        )
        _, deltas, _ = said(engine, asked("What is 4821 + 3977?", max_tokens=12))
        assert [t for delta in deltas for t in delta.token_ids] == tokens[len(prompt) :]
    assert engine.card().quantization == "gptq int4"


@pytest.mark.parametrize("kind", ["f16", "int8", "k8v4", "q4_0"])
def test_the_embedded_model_still_adds_with_a_compressed_cache(kind: str) -> None:
    options = TorchOptions(kv_cache_dtype=kind, device="cpu", kv_block=8, kv_residual=8)
    text, _, finish = said(TorchEdgeEngine(CLOUD_MODEL, options=options), QUESTION)
    assert text.endswith("8798") and finish.reason == "stop"


async def test_it_is_an_engine_that_streams(engine: TorchEdgeEngine) -> None:
    assert isinstance(engine, Engine)
    items = [item async for item in engine.generate(QUESTION)]
    assert isinstance(items[-1], Finish) and items[-1].usage.completion_tokens == len(items) - 1
    card = engine.card()
    assert (card.runtime, card.architecture, card.max_model_len) == ("torch", "qwen3", 512)
    assert card.num_parameters == 3_377_920 and card.chat


async def test_leaving_the_stream_ends_the_work_and_the_next_answer_is_whole(
    engine: TorchEdgeEngine,
) -> None:
    stream = engine.generate(asked("Sort 9, 3, 7, 5, 1."))
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    text, _, _ = said(engine, QUESTION)
    assert text.endswith("8798")


def test_a_cancelled_answer_says_so(engine: TorchEdgeEngine) -> None:
    gone = threading.Event()
    gone.set()
    finish = list(engine.answer(QUESTION, gone))[-1]
    assert isinstance(finish, Finish) and finish.reason == "cancelled"


def test_a_stop_string_is_never_shown(engine: TorchEdgeEngine) -> None:
    text, _, finish = said(engine, asked("What is 4821 + 3977?", stop=("Answer",)))
    assert "Answer" not in text and finish.reason == "stop"


def test_an_answer_goes_on_behind_its_prefix(engine: TorchEdgeEngine) -> None:
    whole, _, _ = said(engine, QUESTION)
    begun = Request(messages=QUESTION.messages, answer_prefix=whole[:12])
    assert whole[:12] + said(engine, begun)[0] == whole


def test_alternatives_and_confidence_agree(engine: TorchEdgeEngine) -> None:
    _, deltas, _ = said(engine, asked("What is 2 + 2?", logprobs=3))
    for delta in deltas:
        (best, second, _), (sure,) = delta.alternatives[0], delta.confidence
        assert best.token_id == delta.token_ids[0]
        assert sure.logprob == pytest.approx(best.logprob, abs=1e-5)
        assert sure.margin == pytest.approx(best.logprob - second.logprob, abs=1e-4)


def test_a_bias_forbids_a_token(engine: TorchEdgeEngine) -> None:
    _, deltas, _ = said(engine, asked("What is 2 + 2?"))
    first = deltas[0].token_ids[0]
    _, deltas, _ = said(engine, asked("What is 2 + 2?", logit_bias={first: -100.0}))
    assert deltas[0].token_ids[0] != first


def test_a_seed_repeats_an_answer(engine: TorchEdgeEngine) -> None:
    request = asked("Hello!", temperature=1.5, seed=4)
    assert said(engine, request)[0] == said(engine, request)[0]


def test_a_conversation_is_not_read_twice(
    engine: TorchEdgeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _, _ = said(engine, QUESTION)
    turns = (
        *QUESTION.messages,
        Message(role="assistant", content=first),
        Message(role="user", content="What is 2 + 2?"),
    )
    read: list[int] = []
    step = engine.loop.batching.run_step

    def counting(slices: Sequence[Slice]) -> list[StepResult]:
        read.append(sum(slice_.num_tokens for slice_ in slices))
        return step(slices)

    monkeypatch.setattr(engine.loop.batching, "run_step", counting)
    later, _, finish = said(engine, Request(messages=turns))
    assert read[0] < finish.usage.prompt_tokens // 2
    fresh = TorchEdgeEngine(CLOUD_MODEL, options=TorchOptions(device="cpu"))
    assert said(fresh, Request(messages=turns))[0] == later


def test_an_endless_text_slides_and_says_what_it_dropped() -> None:
    options = TorchOptions(device="cpu", max_model_len=128, window=96)
    engine = TorchEdgeEngine(CLOUD_MODEL, options=options)
    request = asked("Hello!", max_tokens=300, logit_bias={0: -100.0})
    _, _, finish = said(engine, request)
    assert finish.usage.completion_tokens == 300 and finish.reason == "length"
    assert finish.dropped_tokens > 180


def test_without_a_window_the_context_ends() -> None:
    options = TorchOptions(device="cpu", max_model_len=64, window=0)
    engine = TorchEdgeEngine(CLOUD_MODEL, options=options)
    _, _, finish = said(engine, asked("Hello!", max_tokens=600, logit_bias={0: -100.0}))
    assert finish.reason == "length" and finish.dropped_tokens == 0
    assert finish.usage.prompt_tokens + finish.usage.completion_tokens == 65
    with pytest.raises(ContextLengthError, match="context length is 64 tokens"):
        said(engine, asked("one two three " * 40))


def test_tools_without_a_place_in_the_template_are_refused(engine: TorchEdgeEngine) -> None:
    with pytest.raises(Unsupported):
        said(engine, Request(messages=QUESTION.messages, tools=({"type": "function"},)))


def test_a_bias_on_an_unknown_token_is_refused(engine: TorchEdgeEngine) -> None:
    with pytest.raises(RequestError, match="0 to 895"):
        said(engine, asked("x", logit_bias={896: 1.0}))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kv_cache_dtype": "q5_1"}, "the torch runtime knows"),
        ({"kv_block": 5}, "must be 8, 16"),
        ({"window": 20}, "between 64"),
        ({"dtype": "int4"}, "the torch runtime knows"),
    ],
)
def test_wrong_options_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        TorchOptions(**wrong)


def test_a_context_beyond_the_trained_one_is_refused() -> None:
    with pytest.raises(SettingsError, match="trained for 512"):
        TorchEdgeEngine(CLOUD_MODEL, options=TorchOptions(max_model_len=1024))


def test_another_quantization_is_named(tmp_path: Path) -> None:
    import json
    import shutil

    folder = tmp_path / "awq"
    shutil.copytree(CLOUD_MODEL, folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="quantized by 'awq'"):
        TorchEdgeEngine(folder)


async def test_a_closed_engine_answers_no_more() -> None:
    engine = TorchEdgeEngine(CLOUD_MODEL, options=TorchOptions(device="cpu"))
    await engine.aclose()
    await engine.aclose()
    with pytest.raises(NearfarError, match="closed"):
        list(engine.answer(QUESTION))


def places(tmp_path: Path) -> Places:
    return Places(config=tmp_path, data=tmp_path, cache=tmp_path)


def test_a_folder_in_the_settings_opens_this_runtime(tmp_path: Path) -> None:
    settings = Settings(edge=EdgeSettings(model=str(CLOUD_MODEL), kv_cache_dtype="q4_0"))
    engine = open_edge(settings, places(tmp_path))
    assert engine.card().runtime == "torch"


def test_the_settings_reach_this_runtime(tmp_path: Path) -> None:
    edge = EdgeSettings(model=str(CLOUD_MODEL), max_draft_tokens=5, keep_sessions=False)
    engine = open_edge(Settings(edge=edge), places(tmp_path), serving=True)
    assert isinstance(engine, TorchEdgeEngine)
    options = engine.options
    assert (options.max_num_seqs, options.max_draft_tokens) == (4, 5)
    assert options.session_folder is None
    engine.close()


def test_a_second_models_drafts_are_refused(tmp_path: Path) -> None:
    edge = EdgeSettings(model=str(CLOUD_MODEL), draft_model="small.gguf")
    with pytest.raises(SettingsError, match=r"edge.draft_model is for GGUF"):
        open_edge(Settings(edge=edge), places(tmp_path))


def test_without_torch_a_folder_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "edge.small_gpu.runtime", None)
    settings = Settings(edge=EdgeSettings(model=str(CLOUD_MODEL)))
    with pytest.raises(MissingExtra, match=r"nearfar\[small-gpu\]"):
        open_edge(settings, places(tmp_path))


async def test_how_much_of_a_long_prompt_has_been_read_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "LEAST_TOKENS", 16)
    options = TorchOptions(device="cpu", dtype="float32", max_num_batched_tokens=8)
    engine = TorchEdgeEngine(CLOUD_MODEL, options=options)
    heard: list[tuple[int, int]] = []
    try:
        with heard_by(lambda num_read, num_tokens, _: heard.append((num_read, num_tokens))):
            async for item in engine.generate(asked("What is 17 + 25? " * 8, max_tokens=1)):
                last = item
    finally:
        await engine.aclose()
    assert isinstance(last, Finish)
    total = last.usage.prompt_tokens
    assert heard[0] == (0, total) and heard[-1] == (total, total)
    assert heard == sorted(heard) and len(heard) > 3
