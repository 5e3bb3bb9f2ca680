"""The runtime on the edge model that the project ships."""

from __future__ import annotations

import pytest

from edge.llama.kv_losses import kv_report
from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from offload.messages import Delta, Finish, Message, Request, Sampling
from offload.pair import EDGE_MODEL


@pytest.fixture(scope="module")
def engine():
    engine = LlamaEngine(EDGE_MODEL, options=LlamaOptions(num_threads=1))
    yield engine
    engine.close()


def _ask(engine: LlamaEngine, messages: list[Message]) -> tuple[str, Finish]:
    *deltas, finish = engine.answer(
        Request(messages=tuple(messages), sampling=Sampling(max_tokens=48))
    )
    assert isinstance(finish, Finish)
    return "".join(d.text for d in deltas if isinstance(d, Delta)), finish


def test_an_easy_sum_is_right(engine: LlamaEngine) -> None:
    text, finish = _ask(engine, [Message(role="user", content="What is 17 + 25?")])
    assert (text, finish.reason) == ("42", "stop")
    assert engine.card().chat


def test_chat_goes_on_past_the_context(engine: LlamaEngine) -> None:
    messages: list[Message] = []
    for _turn in range(60):
        messages.append(Message(role="user", content="What is 3 + 4?"))
        text, finish = _ask(engine, messages)
        messages.append(Message(role="assistant", content=text))
    assert text == "7"
    assert finish.usage.prompt_tokens > engine.max_model_len and finish.dropped_tokens > 0


def test_compressed_keys_and_values_cost_little() -> None:
    """Fewer bits diverge more, and none by much.

    Perplexity of 400 tokens moves by a per cent with the CPU's kernels alone (K8/V4 gave +0.4% to
    +1.6%); the divergence of whole distributions is ordered on all of them.
    """
    names = ("q8_0", "k8v4", "q4_0")
    rows = kv_report(EDGE_MODEL, names=names, num_tokens=400, num_threads=1)
    q8, k8v4, q4 = (row.divergence for row in rows)
    assert 4 * q8 < k8v4 < q4 < 0.04
    assert all(row.perplexity_change < 0.05 for row in rows)
    assert [round(row.ratio_to_f16, 2) for row in rows] == [1.88, 2.46, 3.56]
