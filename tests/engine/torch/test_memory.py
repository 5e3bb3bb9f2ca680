"""What is predicted is what is then taken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, LlamaConfig
from typer.testing import CliRunner

from backbone.attention import causal_attention
from backbone.checkpoint import load_network
from backbone.config import NetworkConfig
from backbone.errors import CheckpointError
from backbone.fused_network import FusedNetwork
from cloud.cli import build
from cloud.engine.engine import CloudEngine
from engine.torch.memory import (
    activation_bytes,
    measured_activation_bytes,
    plan_memory,
    run_largest_step,
)
from engine.torch.memory_probe import one_of_each
from engine.torch.options import EngineOptions
from offload.pair import CLOUD_MODEL
from tests.tiny_checkpoints import write_checkpoint, write_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"), "qwen3-tied")


@pytest.fixture(autouse=True)
def unrehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count a plan's tensors, as for a GPU, instead of trying a step, which takes seconds."""
    monkeypatch.setattr("engine.torch.memory.is_measurable", lambda: False)


def allocated_peak(folder: Path, options: EngineOptions, max_model_len: int) -> int:
    """Return the peak that torch's own allocator saw during the largest step."""
    network = load_network(folder, dtype=options.torch_dtype())
    runnable = FusedNetwork(network, max_model_len) if options.fuse_operators else network
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run_largest_step(runnable, options, max_model_len, causal_attention(runnable.config))
    return _peak(profiler)


def _peak(profiler: profile) -> int:
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize(("num_tokens", "num_seqs"), [(512, 8), (2048, 128), (64, 64)])
def test_activations_are_predicted_within_five_per_cent(
    fuse: bool, num_tokens: int, num_seqs: int
) -> None:
    options = EngineOptions(
        device="cpu", max_num_batched_tokens=num_tokens, max_num_seqs=num_seqs, fuse_operators=fuse
    )
    config = NetworkConfig.load(CLOUD_MODEL)
    predicted = activation_bytes(config, 512, options)
    assert predicted == pytest.approx(allocated_peak(CLOUD_MODEL, options, 512), rel=0.05)


@pytest.mark.parametrize("family", ["gemma2-some-windows", "gemma3-some-windows"])
def test_activations_are_predicted_for_scaled_and_capped_networks(
    family: str, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path, family)
    options = EngineOptions(device="cpu", max_num_batched_tokens=512, max_num_seqs=16)
    predicted = activation_bytes(NetworkConfig.load(folder), 128, options)
    network = FusedNetwork(load_network(folder), 128)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run_largest_step(network, options, 128, lambda layer, q, k, v: torch.empty_like(q))
    assert predicted == pytest.approx(_peak(profiler), rel=0.05)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_weights_and_cache_are_predicted(folder: Path, dtype: str) -> None:
    options = EngineOptions(device="cpu", dtype=dtype, num_gpu_blocks_override=20)  # type: ignore[arg-type]
    plan = plan_memory(folder, options)
    engine = CloudEngine(folder, options=options)
    runner = engine.runner
    network, cache = runner.network, engine.cache
    held = sum(t.numel() * t.element_size() for t in (*cache.keys, *cache.values))
    assert plan.kv_bytes == held
    table = sum(t.numel() * t.element_size() for t in network.angles)
    assert plan.weight_bytes == pytest.approx(engine.card().size_bytes + table, rel=0.001)
    assert plan.largest_batch == 20 * 16 // 128
    await engine.aclose()


def test_the_cache_that_fits_is_the_cache_that_is_made(folder: Path) -> None:
    plan = plan_memory(folder, EngineOptions(device="cpu", max_num_seqs=4))
    assert plan.num_blocks == 4 * 128 // 16 and plan.largest_batch == 4 and plan.fits
    assert plan.total_bytes == plan.weight_bytes + plan.activation_bytes + plan.kv_bytes


def test_nothing_is_held_while_predicting(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where no step can be tried, as on a GPU, it is run without storage.
    monkeypatch.setattr("engine.torch.memory.is_measurable", lambda: False)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        plan_memory(folder, EngineOptions(device="cpu"))
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    assert sum(max(0, event.nbytes()) for event in events) < 100_000


def test_the_command_tells_it_as_json(folder: Path) -> None:
    result = CliRunner().invoke(build(), ["memory", str(folder), "--device", "cpu", "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["weight_bytes"] > 0 and told["fits"] is True


def test_the_command_tells_it_in_words(folder: Path) -> None:
    result = CliRunner().invoke(build(), ["memory", str(folder), "--device", "cpu"])
    assert result.exit_code == 0 and "weights" in result.stdout and "answers" in result.stdout


LINUX_ONLY = pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="resident memory is read from /proc"
)


@LINUX_ONLY
@pytest.mark.parametrize("fuse", [True, False])
def test_the_rehearsal_finds_every_tensor_of_the_largest_step(folder: Path, fuse: bool) -> None:
    options = EngineOptions(
        device="cpu", max_num_batched_tokens=2048, max_num_seqs=64, fuse_operators=fuse
    )
    tensors = activation_bytes(NetworkConfig.load(folder), 128, options)
    found = measured_activation_bytes(folder, options)
    # Kernels and the heap hold some megabytes of their own, however small the step.
    # On a CPU a network is laid out anew, and a step holds a little less than the fused one's.
    assert 0.8 * tensors < found < 2 * tensors + 40e6


@LINUX_ONLY
def test_a_rehearsal_takes_no_memory_for_weights(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=60_000,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=64,
        num_attention_heads=16,
        max_position_embeddings=128,
        tie_word_embeddings=False,
    )
    config.save_pretrained(tmp_path)  # no weights are there to be read
    options = EngineOptions(device="cpu", max_num_batched_tokens=64, max_num_seqs=4)
    assert plan_memory(tmp_path, options).weight_bytes > 4e9
    assert measured_activation_bytes(tmp_path, options) < 100e6


def test_a_rehearsal_that_fails_is_told_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(CheckpointError, match=r"could not be tried \(exit status 1\); free memory"):
        measured_activation_bytes(folder, EngineOptions(device="cpu"))


def test_every_kind_of_layer_is_rehearsed_once(tmp_path: Path) -> None:
    config = NetworkConfig.load(write_checkpoint(tmp_path, "gemma3-some-windows"))
    kept = one_of_each(config)
    assert config.num_hidden_layers == 3 and kept.num_hidden_layers == 2
    assert kept.windows() == config.windows()[:2]
    assert [kept.rope_base(i) for i in range(2)] == [config.rope_base(i) for i in range(2)]


def test_a_dtype_halves_the_weights(folder: Path) -> None:
    wide, narrow = (
        plan_memory(
            folder, EngineOptions(device="cpu", dtype=dtype, fuse_operators=False)
        ).weight_bytes
        for dtype in ("float32", "bfloat16")  # type: ignore[arg-type]
    )
    assert wide == 2 * narrow and torch.bfloat16.itemsize == 2


_RESIDENT = """
import sys
from pathlib import Path
from engine.torch.loading import load_model
from engine.torch.options import EngineOptions

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

options = EngineOptions(device="cpu", num_gpu_blocks_override=16)
load_model(Path(sys.argv[1]), options)  # what the libraries keep for themselves
before = resident()
model = load_model(Path(sys.argv[2]), options)
print(resident() - before)
"""


def test_what_is_resident_after_loading_is_what_was_predicted(folder: Path, tmp_path: Path) -> None:
    if not Path("/proc/self/status").is_file():
        pytest.skip("resident memory is read from /proc, which this system has not")
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=128,
    )
    large = write_tokenizer(tmp_path / "large")
    AutoModelForCausalLM.from_config(config).save_pretrained(large)
    predicted = plan_memory(large, EngineOptions(device="cpu", num_gpu_blocks_override=16))
    command = [sys.executable, "-c", _RESIDENT, str(folder), str(large)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    # The cache is not touched yet. Some megabytes are the tokenizer's and the allocator's.
    assert predicted.weight_bytes > 100e6
    assert int(done.stdout) == pytest.approx(predicted.weight_bytes, rel=0.1)
