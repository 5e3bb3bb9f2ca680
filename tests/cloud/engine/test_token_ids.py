"""A prompt of token ids is read as it stands, by every runtime; unknown ids are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backbone.tokenizer import Tokenizer
from cloud.engine.engine import CloudEngine
from edge.llama.runtime import LlamaEngine, LlamaOptions
from edge.small_gpu.runtime import TorchEdgeEngine, TorchOptions
from engine.torch.options import EngineOptions
from offload.engine import Engine
from offload.errors import RequestError, Unsupported
from offload.messages import Request, Sampling
from offload.pair import EDGE_MODEL
from tests.cloud.golden import answer, ask, text_of, tokens_of
from tests.tiny_checkpoints import write_checkpoint

TEXT = "the quick brown fox"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"), "qwen3-tied")


@pytest.fixture(params=["cloud", "llama", "small_gpu"])
def engine(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[Engine, list[int]]]:
    if request.param == "cloud":
        made: Engine = CloudEngine(folder, options=EngineOptions(device="cpu"))
    elif request.param == "small_gpu":
        made = TorchEdgeEngine(folder, options=TorchOptions(device="cpu", kv_cache_dtype="f16"))
    else:
        llama = LlamaEngine(EDGE_MODEL, options=LlamaOptions(num_threads=1))
        yield llama, llama.prompt_tokens(Request(prompt=TEXT))
        return
    yield made, Tokenizer(folder).encode(TEXT)


def of_ids(ids: list[int], **more: object) -> Request:
    sampling = Sampling(max_tokens=6)
    return Request(prompt_token_ids=tuple(ids), sampling=sampling, **more)  # type: ignore[arg-type]


async def test_ids_are_answered_as_the_text_that_they_spell(
    engine: tuple[Engine, list[int]],
) -> None:
    runtime, ids = engine
    spelt, finish = await answer(runtime, ask(TEXT, max_tokens=6))
    numbered, same = await answer(runtime, of_ids(ids))
    assert tokens_of(numbered) == tokens_of(spelt) and tokens_of(spelt)
    assert text_of(numbered) == text_of(spelt)
    assert same.usage.prompt_tokens == finish.usage.prompt_tokens == len(ids)
    await runtime.aclose()


async def test_what_cannot_be_read_is_refused(engine: tuple[Engine, list[int]]) -> None:
    runtime, ids = engine
    size = runtime.card().vocab_size
    assert size > max(ids)
    with pytest.raises(RequestError, match=rf"token {size}; this model's are 0 to {size - 1}"):
        await answer(runtime, of_ids([*ids, size]))
    with pytest.raises(Unsupported, match="put its ids behind"):
        await answer(runtime, of_ids(ids, answer_prefix="and"))
    with pytest.raises(Unsupported, match="tools need messages"):
        await answer(runtime, of_ids(ids, tools=({"type": "function"},)))
    assert (await answer(runtime, of_ids(ids)))[1].reason in ("stop", "length")
    await runtime.aclose()
