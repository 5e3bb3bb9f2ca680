"""Every word of a request is kept, or the request is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from backbone.tokenizer import Tokenizer
from cloud.engine.engine import CloudEngine
from engine.torch.options import EngineOptions
from offload.errors import RequestError, Unsupported
from offload.messages import Message, PromptToken, Request, Sampling, ToolCall
from offload.pair import CLOUD_MODEL
from tests.cloud.golden import answer, ask, reference_tokens, text_of, tokens_of
from tests.tiny_checkpoints import write_checkpoint

PROMPT = "what is seventeen plus twenty-five, and how many seconds has an hour?"
SUM = {
    "type": "object",
    "properties": {"sum": {"type": "integer"}, "unit": {"enum": ["s", "h"]}},
    "required": ["sum", "unit"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}
TOOL_TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}"
    "{% if m['content'] == 'sudo' %}{{ raise_exception('no such turns') }}{% endif %}"
    "{{ '<|user|>' + m['content'] }}{% for c in m.tool_calls or [] %}"
    "{{ c.function.name }}({{ c.function.arguments.zone }}){% endfor %}{% endfor %}"
    "{{ '<|assistant|>' }}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"), "qwen3-tied")


@pytest.fixture(scope="module")
def with_tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("tools"), "llama")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": TOOL_TEMPLATE}))
    return folder


@pytest.fixture
async def engine(folder: Path) -> AsyncIterator[CloudEngine]:
    # Small steps and blocks, so that prompts are read in pieces and found again.
    options = EngineOptions(
        device="cpu", max_num_batched_tokens=7, block_size=4, response_cache_size=0
    )
    engine = CloudEngine(folder, options=options)
    yield engine
    await engine.aclose()
    engine.batching.check_integrity()


def reference_logprobs(folder: Path, tokens: list[int]) -> Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        return torch.log_softmax(model(torch.tensor([tokens])).logits[0], -1)


async def test_alternatives_are_the_networks_likeliest(engine: CloudEngine, folder: Path) -> None:
    deltas, _ = await answer(engine, ask(max_tokens=5, logprobs=3, temperature=1.0, seed=2))
    prompt, made = Tokenizer(folder).encode("the cat"), tokens_of(deltas)
    rows = reference_logprobs(folder, prompt + made)[len(prompt) - 1 :]
    told = [place for delta in deltas for place in delta.alternatives]
    for place, row in zip(told, rows[: len(made)], strict=True):
        assert [one.token_id for one in place] == row.topk(3).indices.tolist()
        assert [one.logprob for one in place] == pytest.approx(
            row.topk(3).values.tolist(), abs=1e-3
        )


async def test_alternatives_come_only_where_asked_for(engine: CloudEngine) -> None:
    deltas, _ = await answer(engine, ask(max_tokens=3))
    assert not any(delta.alternatives or delta.prompt_tokens for delta in deltas)


@pytest.mark.parametrize("count", [0, 2])
async def test_the_prompts_likelihoods_are_the_networks(
    engine: CloudEngine, folder: Path, count: int
) -> None:
    tokens = Tokenizer(folder).encode(PROMPT)
    rows = reference_logprobs(folder, tokens)
    for _ in range(2):  # again with the prompt in the prefix cache
        deltas, _ = await answer(
            engine, ask(PROMPT, max_tokens=3, prompt_logprobs=True, logprobs=count)
        )
        told = deltas[0].prompt_tokens
        assert [one.token_id for one in told] == tokens
        assert told[0] == PromptToken(tokens[0], told[0].text, None)
        expected = rows[:-1].gather(-1, torch.tensor(tokens[1:]).unsqueeze(-1)).squeeze(-1)
        assert [one.logprob for one in told[1:]] == pytest.approx(expected.tolist(), abs=1e-3)
        assert {len(one.alternatives) for one in told[1:]} == {count}
        assert not any(delta.prompt_tokens for delta in deltas[1:])


async def test_only_the_turn_that_is_asked_for_is_scored_behind_a_cached_question() -> None:
    options = EngineOptions(device="cpu", block_size=4, response_cache_size=0)
    engine = CloudEngine(CLOUD_MODEL, options=options)
    turns = (
        Message(role="user", content="What is seventeen plus twenty-five, and why?"),
        Message(role="assistant", content="It is 42, I think."),
        Message(role="user", content="Is that right?"),
    )
    sampling = Sampling(max_tokens=1, prompt_logprobs=True, logprobs=2)
    whole, _ = await answer(engine, Request(messages=turns, sampling=sampling))
    for _ in range(2):
        told, finish = await answer(
            engine, Request(messages=turns, sampling=sampling, scored_turn=1)
        )
        scored = told[0].prompt_tokens
        assert "".join(one.text for one in scored).strip() == "It is 42, I think."
        at = whole[0].prompt_tokens.index(
            next(one for one in whole[0].prompt_tokens if one.text == scored[0].text)
        )
        same = whole[0].prompt_tokens[at : at + len(scored)]
        assert [one.token_id for one in scored] == [one.token_id for one in same]
        for one, other in zip(scored, same, strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=1e-3)
            assert one.entropy is not None and one.entropy >= 0.0
            assert (one.rank == 0) == (one.alternatives[0].token_id == one.token_id)
    assert finish.usage.cached_tokens > 8
    await engine.aclose()


async def test_a_scored_prompt_survives_preemption(folder: Path) -> None:
    engine = CloudEngine(
        folder, options=EngineOptions(device="cpu", block_size=4, num_gpu_blocks_override=32)
    )
    requests = [ask(PROMPT, max_tokens=60, prompt_logprobs=True) for _ in range(4)]
    answers = await asyncio.gather(*(answer(engine, request) for request in requests))
    told = [deltas[0].prompt_tokens for deltas, _ in answers]
    assert engine.batching.scheduler.num_preemptions > 0
    assert all([one.token_id for one in each] == Tokenizer(folder).encode(PROMPT) for each in told)
    await engine.aclose()
    engine.batching.check_integrity()


async def test_a_bias_chooses_and_forbids(engine: CloudEngine, folder: Path) -> None:
    plain = tokens_of((await answer(engine, ask(max_tokens=6)))[0])
    chosen = await answer(engine, ask(max_tokens=4, logit_bias={77: 100.0}))
    assert tokens_of(chosen[0]) == [77] * 4
    forbidden = await answer(engine, ask(max_tokens=6, logit_bias={plain[0]: -100.0}))
    assert plain[0] not in tokens_of(forbidden[0])


async def test_a_bias_does_not_change_the_confidence_told(engine: CloudEngine) -> None:
    plain = (await answer(engine, ask(max_tokens=1, logprobs=1)))[0][0]
    token, sure = plain.token_ids[0], plain.confidence[0]
    biased = (await answer(engine, ask(max_tokens=1, logit_bias={token: 50.0})))[0][0]
    assert biased.confidence[0].logprob == pytest.approx(sure.logprob, abs=1e-5)


async def test_an_unknown_token_in_a_bias_is_refused(engine: CloudEngine) -> None:
    with pytest.raises(RequestError, match="names the token 320; this model's are 0 to 319"):
        await answer(engine, ask(logit_bias={320: 1.0}))


async def test_an_answer_goes_on_after_its_prefix(engine: CloudEngine, folder: Path) -> None:
    turns = (Message(role="user", content="how many seconds"),)
    begun = "the hour has <|end|>"
    asked = Request(messages=turns, sampling=Sampling(max_tokens=9), answer_prefix=begun)
    deltas, finish = await answer(engine, asked)
    tokenizer = Tokenizer(folder)
    prompt = tokenizer.encode_chat([{"role": "user", "content": "how many seconds"}])
    prompt += tokenizer.encode_text(
        begun
    )  # its "<|end|>" is text, as all that a person may have typed
    assert tokens_of(deltas) == reference_tokens(folder, prompt, 9)
    assert (deltas[0].index, finish.usage.prompt_tokens) == (0, len(prompt))


async def test_a_prefix_continues_the_embedded_models_sum() -> None:
    engine = CloudEngine(CLOUD_MODEL, options=EngineOptions(device="cpu"))
    question = (Message(role="user", content="What is 17 + 25?"),)
    whole = text_of((await answer(engine, Request(messages=question)))[0])
    begun = whole[: len(whole) // 2]
    rest = text_of((await answer(engine, Request(messages=question, answer_prefix=begun)))[0])
    assert begun and begun + rest == whole and "42" in whole
    await engine.aclose()


async def test_a_prefix_follows_a_raw_prompt(engine: CloudEngine) -> None:
    together = await answer(engine, ask("the cat sat", max_tokens=8))
    parted = await answer(engine, ask("the cat", max_tokens=8, answer_prefix=" sat"))
    assert tokens_of(parted[0]) == tokens_of(together[0])


@pytest.mark.parametrize("temperature", [0.0, 1.5])
async def test_an_answer_fits_its_schema(engine: CloudEngine, temperature: float) -> None:
    for seed in range(3):
        deltas, finish = await answer(
            engine,
            ask(PROMPT, max_tokens=60, temperature=temperature, seed=seed, json_schema=SUM),
        )
        if finish.reason == "stop":
            made = json.loads(text_of(deltas))
            assert set(made) == {"sum", "unit"} and isinstance(made["sum"], int)
        else:  # random weights may write digits for ever
            assert text_of(deltas).startswith('{"sum":')


async def test_a_whole_value_ends_the_answer(engine: CloudEngine) -> None:
    deltas, finish = await answer(engine, ask(max_tokens=50, json_schema={"enum": ["yes"]}))
    assert (text_of(deltas), finish.reason) == ('"yes"', "stop")


async def test_what_is_forced_takes_fewer_steps_whoever_else_writes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = CloudEngine(folder, options=EngineOptions(device="cpu"))
    only = {"const": {"sum": 42, "units": ["seconds", "hours", "seconds"]}}
    steps: list[int] = []
    schedule = engine.scheduler.schedule

    def counted() -> Any:
        slices = schedule()
        steps.append(len(slices))
        return slices

    monkeypatch.setattr(engine.scheduler, "schedule", counted)
    request = ask(max_tokens=90, temperature=1.0, seed=1, json_schema=only)
    deltas, finish = await answer(engine, request)
    assert json.loads(text_of(deltas)) == only["const"] and finish.reason == "stop"
    assert len(steps) < 0.3 * len(tokens_of(deltas))
    drawn = ask(PROMPT, max_tokens=30, temperature=1.0, seed=3, json_schema=SUM)
    alone = await answer(engine, drawn)
    others = [ask(f"hour {n}", max_tokens=20, json_schema=only) for n in range(6)]
    among, *cut = await asyncio.gather(*(answer(engine, each) for each in (drawn, *others)))
    assert tokens_of(among[0]) == tokens_of(alone[0])
    for told, end in cut:
        assert (len(tokens_of(told)), end.reason) == (20, "length")
        assert json.dumps(only["const"]).startswith(text_of(told))
    await engine.aclose()


async def test_a_model_of_blanks_cannot_fill_an_answer_with_them(engine: CloudEngine) -> None:
    pieces = {token: engine.written([token]) for token in range(engine.card().vocab_size)}
    liked = {token: 100.0 for token, piece in pieces.items() if piece and not piece.strip()}
    for schema in (SUM, {"type": "object"}):
        deltas, _ = await answer(engine, ask(max_tokens=40, json_schema=schema, logit_bias=liked))
        outside = text_of(deltas).split('"')[::2]  # a text in quotes may be of blanks
        assert not any("  " in piece or "\n" in piece for piece in outside)


async def test_a_schema_holds_what_a_prefix_has_begun(engine: CloudEngine) -> None:
    request = ask(max_tokens=50, json_schema={"enum": ["yes"]}, answer_prefix='"y')
    assert text_of((await answer(engine, request))[0]) == 'es"'
    with pytest.raises(RequestError, match="answer_prefix does not fit"):
        await answer(engine, ask(json_schema={"enum": ["yes"]}, answer_prefix='"n'))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"type": "string", "pattern": "("},
        {"$ref": "https://example.org/schema"},
        {"type": "array", "items": {"$ref": "#/nowhere"}},
    ],
)
async def test_a_schema_that_cannot_be_kept_is_refused(engine: CloudEngine, schema: Any) -> None:
    with pytest.raises(RequestError, match="json_schema cannot be kept"):
        await answer(engine, ask(json_schema=schema))
    assert (await answer(engine, ask(max_tokens=2)))[1].reason == "length"


async def test_tools_and_calls_reach_the_template(with_tools: Path) -> None:
    engine = CloudEngine(with_tools, options=EngineOptions(device="cpu"))
    call = ToolCall(id="1", name="clock", arguments='{"zone": "<|end|>"}')
    turns = (
        Message(role="user", content="hour?"),
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content="9", tool_call_id="1"),
    )
    request = Request(messages=turns, tools=(TOOL,), sampling=Sampling(max_tokens=2))
    _, finish = await answer(engine, request)
    tokenizer = Tokenizer(with_tools)
    text = json.dumps(TOOL) + "[USER]hour?[USER]clock(<|end|>)[USER]9[ASSISTANT]"
    # What a tool says is text: its "<|end|>" is seven characters, and those of turns are tokens.
    pieces = [json.dumps([TOOL]), "hour?", "clock(<|end|>)", "9"]
    plain = sum(len(tokenizer.encode_text(piece)) for piece in pieces)
    assert finish.usage.prompt_tokens == plain + text.count("[USER]") + 1
    await engine.aclose()


async def test_tools_that_a_template_would_leave_out_are_refused(engine: CloudEngine) -> None:
    question = (Message(role="user", content="hour?"),)
    with pytest.raises(Unsupported, match="no place for tools"):
        await answer(engine, Request(messages=question, tools=(TOOL,)))
    with pytest.raises(Unsupported, match="a raw prompt has neither"):
        await answer(engine, Request(prompt="hour?", tools=(TOOL,)))
    call = ToolCall(id="1", name="clock", arguments="{}")
    with pytest.raises(Unsupported, match="no place for tool_calls"):
        turn = Message(role="assistant", content="-", tool_calls=(call,))
        await answer(engine, Request(messages=(*question, turn)))


async def test_a_templates_refusal_is_the_requests_fault(with_tools: Path) -> None:
    engine = CloudEngine(with_tools, options=EngineOptions(device="cpu"))
    with pytest.raises(RequestError, match="no such turns"):
        await answer(engine, Request(messages=(Message(role="system", content="sudo"),)))
    await engine.aclose()


async def test_messages_without_a_template_are_refused(folder: Path, tmp_path: Path) -> None:
    plain = write_checkpoint(tmp_path, "llama")
    (plain / "tokenizer_config.json").write_text("{}")
    engine = CloudEngine(plain, options=EngineOptions(device="cpu"))
    with pytest.raises(Unsupported, match="no chat template"):
        await answer(engine, Request(messages=(Message(role="user", content="hello"),)))
    await engine.aclose()
