"""A decode step has no shape and no copy that hangs on its data, so that a CUDA graph can hold it.

Fake tensors have shapes and no values: whatever would ask a device for one fails.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from backbone.checkpoint import load_network
from backbone.experts import mix, mix_unasked, route
from backbone.fused_network import FusedNetwork
from backbone.sampling import Sampler, SamplingValues, choose, confidence
from engine.torch.kv.kv_cache import CODED, KVCache
from tests.tiny_checkpoints import write_checkpoint

ROWS = 3


def experts(count: int = 12) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 2 * 10, 16), torch.randn(count, 16, 10)


def grouped(x: Tensor, weights: Tensor, chosen: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    def made(number: int, rows: Tensor) -> Tensor:
        gate, up = (rows @ gate_up[number].T).chunk(2, -1)
        return (torch.nn.functional.silu(gate) * up) @ down[number].T

    return mix(x, weights, chosen, lambda number: lambda rows: made(number, rows))


@pytest.mark.parametrize("rows", [1, 2, 3, 40])
@pytest.mark.parametrize("wanted", [1, 2, 12])
def test_experts_make_the_same_whether_or_not_the_host_knows_who_is_wanted(
    rows: int, wanted: int
) -> None:
    torch.manual_seed(rows)
    x, parts = torch.randn(rows, 16), experts()
    weights, chosen = route(torch.randn(rows, 12), wanted, normalized=True, dtype=x.dtype)
    found = mix_unasked(x, weights, chosen, *parts, torch.nn.functional.silu)
    torch.testing.assert_close(found, grouped(x, weights, chosen, *parts), atol=1e-5, rtol=1e-5)


def test_what_overflows_in_an_expert_that_nobody_chose_is_not_told() -> None:
    gate_up, down = experts(4)
    gate_up[3] = 1e30
    x = torch.ones(2, 16)
    weights, chosen = torch.ones(2, 2) / 2, torch.tensor([[0, 1], [2, 0]])
    found = mix_unasked(x, weights, chosen, gate_up, down, torch.nn.functional.silu)
    assert found.isfinite().all()


@pytest.mark.parametrize("rows", [1, 40])
def test_experts_by_number_alone_ask_nothing_of_the_device(rows: int) -> None:
    parts = experts()
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        x, logits = fake.from_tensor(torch.randn(rows, 16)), fake.from_tensor(torch.randn(rows, 12))
        weights, chosen = route(logits, 2, normalized=True, dtype=x.dtype)
        made = mix_unasked(x, weights, chosen, *parts, torch.nn.functional.silu)
        assert made.shape == (rows, 16)
        # The grouped way asks, which is why it cannot be recorded.
        with pytest.raises(DynamicOutputShapeException):
            grouped(x, weights, chosen, *parts)


@pytest.mark.parametrize("family", ["qwen3-tied", "gemma2-some-windows", "qwen3-moe"])
@pytest.mark.parametrize("stored", [torch.float32, *CODED])
def test_a_decode_step_asks_nothing_of_the_device(
    family: str, stored: torch.dtype, tmp_path: Path
) -> None:
    network = load_network(write_checkpoint(tmp_path, family))
    fused = FusedNetwork(network, 64, unasked_rows=ROWS)
    cache = KVCache(fused.config, 4, 4, device=torch.device("cpu"), dtype=stored)
    with torch.inference_mode(), FakeTensorMode(allow_non_fake_inputs=True) as fake:
        inputs = fake.from_tensor(torch.ones(3, ROWS, dtype=torch.int64))
        on_device = FakeCache(fake, cache)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            on_device.cache.store(layer, k, v, inputs[2])
            return torch.empty_like(q)

        logits = fused.logits(fused(inputs[0], inputs[1], attend))
        assert logits.shape == (ROWS, fused.config.vocab_size)


class FakeCache:
    """A cache whose tensors have no values either."""

    def __init__(self, fake: FakeTensorMode, cache: KVCache) -> None:
        cache.keys, cache.values = (
            [fake.from_tensor(t) for t in x] for x in (cache.keys, cache.values)
        )
        cache.flat = [(fake.from_tensor(k), fake.from_tensor(v)) for k, v in cache.flat]
        if cache.scales is not None:
            cache.scales = [(fake.from_tensor(k), fake.from_tensor(v)) for k, v in cache.scales]
        self.cache = cache


@pytest.mark.parametrize(
    "values",
    [
        SamplingValues(),
        SamplingValues(temperature=0.7),
        SamplingValues(temperature=0.7, top_p=0.9, min_p=0.1),
        SamplingValues(temperature=0.7, top_k=5, repetition_penalty=1.2),
    ],
    ids=["greedy", "plain", "nucleus", "shortlist"],
)
def test_a_choice_asks_nothing_of_the_device(
    values: SamplingValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Drawn on the host, where a fake tensor would have no value either.
    monkeypatch.setattr(Sampler, "uniform", lambda self: 0.5)
    samplers = [Sampler(values, seed=1, vocab_size=50, logit_bias={3: 1.0}) for _ in range(ROWS)]
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        logits = fake.from_tensor(torch.randn(ROWS, 50))
        tokens = choose(logits, samplers)
        assert tokens.shape == (ROWS,) and confidence(logits, tokens).shape == (ROWS, 3)
