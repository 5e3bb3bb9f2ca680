"""Where answers end, and what is filled in between two texts, by the near engines."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import pytest

from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from edge.small_gpu.options import TorchOptions
from edge.small_gpu.runtime import TorchEdgeEngine
from offload.errors import RequestError
from offload.messages import Request
from offload.pair import CLOUD_MODEL, EDGE_MODEL
from tests.edge.conftest import write_tiny_gguf
from tests.endings import keep_what_is_asked_of_ends
from tests.thinking_engines import say_the_tag_that_the_template_wrote, write_thinker

MARKS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")


@pytest.mark.parametrize("max_draft_tokens", [0, 8])
@pytest.mark.parametrize("runtime", ["llama.cpp", "torch"])
async def test_what_is_asked_of_ends_is_kept(runtime: str, max_draft_tokens: int) -> None:
    engine = (
        LlamaEngine(
            EDGE_MODEL, options=LlamaOptions(num_threads=1, max_draft_tokens=max_draft_tokens)
        )
        if runtime == "llama.cpp"
        else TorchEdgeEngine(
            CLOUD_MODEL,
            options=TorchOptions(device="cpu", num_threads=1, max_draft_tokens=max_draft_tokens),
        )
    )
    async with aclosing(engine):
        await keep_what_is_asked_of_ends(engine)


def test_a_suffix_stands_behind_what_is_to_be_written(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "fill.gguf", marks=MARKS)
    engine = LlamaEngine(path, options=LlamaOptions(num_threads=1))
    spelled = Request(prompt="def <|end|>(", suffix=")<|fim_middle|>:")
    tokens = engine.prompt_tokens(spelled)
    before, behind, between = (261, 262, 263)
    assert tokens[0] == before and tokens[-1] == between
    assert tokens.count(behind) == 1 and tokens.count(between) == 1, "what is spelled is letters"
    at = tokens.index(behind)
    assert engine.detokenize(tokens[1:at]) == b"def <|end|>("
    assert engine.detokenize(tokens[at + 1 : -1]) == b")<|fim_middle|>:"
    assert engine.prompt_tokens(Request(prompt="", suffix="x"))[0] == before
    engine.close()


@pytest.mark.parametrize("runtime", ["llama.cpp", "torch"])
def test_a_model_without_the_marks_refuses_a_suffix(runtime: str, tiny_gguf: Path) -> None:
    engine = (
        LlamaEngine(tiny_gguf, options=LlamaOptions(num_threads=1))
        if runtime == "llama.cpp"
        else TorchEdgeEngine(CLOUD_MODEL, options=TorchOptions(device="cpu", num_threads=1))
    )
    with pytest.raises(RequestError, match="fill in the middle"):
        engine.prompt_tokens(Request(prompt="a", suffix="b"))
    engine.close()


def test_the_marks_of_calls_and_thoughts_are_part_of_an_answer(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "marks.gguf", marks=("[TOOL_CALLS]", "[THINK]", "<|other|>"))
    engine = LlamaEngine(path, options=LlamaOptions(num_threads=1))
    assert engine.detokenize([261, 262, 263, 260]) == b"[TOOL_CALLS][THINK]"
    engine.close()


async def test_a_tag_that_the_template_wrote_begins_the_answer(tmp_path: Path) -> None:
    options = TorchOptions(device="cpu", num_threads=1)
    async with aclosing(TorchEdgeEngine(write_thinker(tmp_path / "m"), options=options)) as engine:
        await say_the_tag_that_the_template_wrote(engine)
