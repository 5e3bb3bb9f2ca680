from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backbone.errors import CheckpointError, NearfarError
from quantize.block_stream import BlockStream
from quantize.calibration import CalibrationOptions, Moments, Walk, longest_window, windows_of
from quantize.calibration_text import default_text
from quantize.gguf import convert
from quantize.importance import load_importance
from quantize.measure_importance import measure_importance

Make = Callable[..., Path]
FEW = CalibrationOptions(num_windows=6, window_len=24, seed=1)


def watched_by_transformers(folder: Path, windows: torch.Tensor) -> dict[str, np.ndarray[Any, Any]]:
    """An independent measurement: hooks on transformers' own network."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    sums: dict[str, torch.Tensor] = {}

    def hook_for(name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            sums[name] = inputs[0].double().square().mean((0, 1))

        return hook

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(hook_for(name))
    with torch.no_grad():
        model(windows)
    return {name: mean.numpy() for name, mean in sums.items()}


GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 24, "sliding_window": 64}


@pytest.mark.parametrize(
    ("model_type", "more"),
    [("llama", {}), ("qwen2", {}), ("qwen3", {}), ("gemma2", GEMMA), ("gemma3_text", GEMMA)],
)
def test_importance_is_the_mean_square_of_what_each_matrix_is_fed(
    model_type: str, more: dict[str, Any], make_checkpoint: Make
) -> None:
    folder = make_checkpoint(model_type, tie_word_embeddings=True, **more)
    windows = windows_of(folder, default_text(), FEW, 512)
    expected = watched_by_transformers(folder, windows)
    found = measure_importance(folder, options=FEW).values
    pairs = {
        "blk.0.attn_q.weight": "model.layers.0.self_attn.q_proj",
        "blk.1.attn_v.weight": "model.layers.1.self_attn.v_proj",
        "blk.1.attn_output.weight": "model.layers.1.self_attn.o_proj",
        "blk.1.ffn_up.weight": "model.layers.1.mlp.up_proj",
        "blk.0.ffn_down.weight": "model.layers.0.mlp.down_proj",
        "token_embd.weight": "lm_head",
    }
    for ours, theirs in pairs.items():
        np.testing.assert_allclose(found[ours], expected[theirs], rtol=1e-3, err_msg=ours)
    assert len(found) == 2 * 7 + 1


def test_the_full_moment_has_the_importance_on_its_diagonal(make_checkpoint: Make) -> None:
    folder = make_checkpoint("llama")
    stream = BlockStream(folder)
    windows = windows_of(folder, default_text(), FEW, longest_window(stream))
    seen: list[dict[str, Any]] = []
    walk = Walk(stream, windows, full=True)

    def look(layer: int, block: Any) -> None:
        seen.append(walk.watch(block))

    assert list(walk.steps(look)) == [1, 2]
    importance = measure_importance(folder, options=FEW).values
    moment = seen[1]["mlp.down_proj"]
    assert torch.allclose(moment.mean, moment.mean.T)
    np.testing.assert_allclose(
        moment.mean_square.numpy(), importance["blk.1.ffn_down.weight"], rtol=1e-4
    )
    assert moment.count == 6 * 24


def test_a_wide_second_moment_is_whole() -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(3, 40, 1000, generator=generator)
    moments = Moments(1000, full=True, device="cpu")
    moments.add(inputs[0])
    torch.testing.assert_close(
        moments.mean, moments.mean.T
    )  # may be looked at before the last batch
    for batch in inputs[1:]:
        moments.add(batch)
    rows = inputs.reshape(-1, 1000)
    torch.testing.assert_close(moments.mean, rows.T @ rows / 120, atol=1e-5, rtol=1e-4)


def test_states_moved_in_two_steps_are_where_one_step_moves_them(make_checkpoint: Make) -> None:
    folder = make_checkpoint("gemma2", **GEMMA)
    stream = BlockStream(folder)
    windows = windows_of(folder, default_text(), FEW, longest_window(stream))
    walks = [Walk(stream, windows, full=True) for _ in range(2)]
    found: list[Tensor] = []

    def look(layer: int, block: Any) -> None:
        found.append(walks[0].watch(block, ["mlp.down_proj"])["mlp.down_proj"].mean)
        walks[0].pass_attention(block)
        found.append(walks[0].watch(block, ["mlp.down_proj"])["mlp.down_proj"].mean)

    list(walks[0].steps(look))
    list(walks[1].steps(lambda layer, block: None))
    assert torch.equal(found[0], found[1]) and torch.equal(found[2], found[3])
    assert torch.equal(walks[0].hidden, walks[1].hidden)


@pytest.mark.parametrize("suffix", [".dat", ".gguf"])
def test_both_file_formats_return_what_was_saved(
    suffix: str, make_checkpoint: Make, tmp_path: Path
) -> None:
    importance = measure_importance(make_checkpoint("llama"), options=FEW)
    path = tmp_path / f"imatrix{suffix}"
    importance.save(path)
    back = load_importance(path)
    assert back.values.keys() == importance.values.keys()
    assert back.num_windows == 6
    for name, values in importance.values.items():
        np.testing.assert_allclose(back.values[name], values, rtol=1e-6)


def test_the_older_format_has_llama_cpps_layout(make_checkpoint: Make, tmp_path: Path) -> None:
    importance = measure_importance(make_checkpoint("llama"), options=FEW)
    importance.save(tmp_path / "i.dat")
    raw = (tmp_path / "i.dat").read_bytes()
    count, name_len = struct.unpack_from("<ii", raw)
    name = raw[8 : 8 + name_len].decode()
    calls, size = struct.unpack_from("<ii", raw, 8 + name_len)
    values = np.frombuffer(raw, dtype="<f4", count=size, offset=16 + name_len)
    assert count == len(importance.values)
    np.testing.assert_allclose(values / calls, importance.values[name], rtol=1e-6)


def test_the_newer_format_has_llama_cpps_keys(make_checkpoint: Make, tmp_path: Path) -> None:
    from gguf import GGUFReader

    measure_importance(make_checkpoint("llama"), options=FEW).save(tmp_path / "i.gguf")
    reader = GGUFReader(tmp_path / "i.gguf")
    assert reader.fields["general.type"].contents() == "imatrix"
    assert "general.architecture" not in reader.fields
    assert reader.fields["imatrix.chunk_size"].contents() == 24
    tensors = {t.name: t for t in reader.tensors}
    assert list(tensors["blk.0.ffn_down.weight.in_sum2"].shape) == [96, 1]
    assert list(tensors["blk.0.ffn_down.weight.counts"].shape) == [1, 1]


def test_a_quantized_model_takes_the_importance_whole(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    folder = make_checkpoint("qwen3", hidden_size=256, intermediate_size=256, head_dim=64)
    values = measure_importance(folder, options=FEW).values
    plain = convert(folder, tmp_path / "a.gguf", kind="q4_k_m").path
    weighted = convert(folder, tmp_path / "b.gguf", kind="q4_k_m", importance=values).path
    assert plain.read_bytes() != weighted.read_bytes()


class Interrupted(Exception):
    pass


def test_an_interrupted_pass_goes_on_where_it_stopped(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    folder = make_checkpoint("llama", num_hidden_layers=4)
    state = tmp_path / "state.safetensors"
    done: list[int] = []

    def stop(layer: int, count: int) -> None:
        done.append(layer)
        if layer == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        measure_importance(folder, options=FEW, state_file=state, progress=stop)
    found = measure_importance(
        folder, options=FEW, state_file=state, progress=lambda layer, count: done.append(layer)
    )
    assert done == [1, 2, 3, 4]
    assert not state.exists()
    whole = measure_importance(folder, options=FEW)
    for name, values in whole.values.items():
        np.testing.assert_array_equal(found.values[name], values)


def test_the_state_of_another_run_is_refused(make_checkpoint: Make, tmp_path: Path) -> None:
    folder = make_checkpoint("llama")
    state = tmp_path / "state.safetensors"

    def stop(layer: int, count: int) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        measure_importance(folder, options=FEW, state_file=state, progress=stop)
    with pytest.raises(NearfarError, match="another run"):
        measure_importance(folder, "another text " * 99, options=FEW, state_file=state)


def test_windows_repeat_with_the_seed_and_differ_without(make_checkpoint: Make) -> None:
    folder = make_checkpoint("llama")
    text = default_text()
    first = windows_of(folder, text, FEW, 512)
    assert torch.equal(first, windows_of(folder, text, FEW, 512))
    other = CalibrationOptions(num_windows=6, window_len=24, seed=2)
    assert not torch.equal(first, windows_of(folder, text, other, 512))


def test_control_tokens_in_the_text_are_meant_only_where_asked(make_checkpoint: Make) -> None:
    folder = make_checkpoint("llama")
    text = "<|user|>hello<|assistant|>" * 20
    meant = CalibrationOptions(num_windows=1, window_len=24, parse_special=True)
    plain = CalibrationOptions(num_windows=1, window_len=24)
    assert {1, 2} <= set(windows_of(folder, text, meant, 512).flatten().tolist())
    assert not {1, 2} & set(windows_of(folder, text, plain, 512).flatten().tolist())


def test_a_text_shorter_than_a_window_is_refused(make_checkpoint: Make) -> None:
    with pytest.raises(NearfarError, match="fewer than one window"):
        measure_importance(make_checkpoint("llama"), "short", options=FEW)


def test_the_embedded_text_is_long_varied_and_always_the_same() -> None:
    text = default_text()
    assert text == default_text.__wrapped__()
    assert len(text) > 80_000
    for sign in ("é", "ü", "п", "天", "{", "|", "\n    ", "7"):
        assert sign in text


@pytest.mark.parametrize("raw", [b"", b"GGUF", b"\x05\x00\x00\x00\xff\xff\xff\x7f", b"text"])
def test_a_file_that_is_no_importance_matrix_is_named(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "i.dat"
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match="importance"):
        load_importance(path)


def test_nan_weights_are_named(make_checkpoint: Make) -> None:
    from safetensors.numpy import load_file, save_file

    folder = make_checkpoint("llama")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = np.nan
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj"):
        measure_importance(folder, options=FEW)


@pytest.mark.parametrize(("model_type", "more"), [("llama", {}), ("gemma2", GEMMA)])
def test_states_that_move_on_from_kept_inputs_are_where_the_block_moves_them(
    model_type: str, more: dict[str, Any], make_checkpoint: Make
) -> None:
    folder = make_checkpoint(model_type, **more)
    stream = BlockStream(folder)
    windows = windows_of(folder, default_text(), FEW, longest_window(stream))
    walks = [Walk(stream, windows, full=True) for _ in range(2)]

    def look(layer: int, block: Any) -> None:
        walks[0].pass_attention(block)
        kept = walks[0].watch_last(block).mean
        if layer == 0:  # later states differ by what was rounded
            torch.testing.assert_close(kept, walks[1].watch(block)["mlp.down_proj"].mean)
        block.mlp.down_proj.weight.mul_(0.5)
        walks[1]._run(block, advance=True)

    for _ in walks[0].steps(look):
        walks[1].layer += 1
    difference = walks[0].hidden - walks[1].hidden
    assert float(difference.norm() / walks[1].hidden.norm()) < 2.0**-8  # bfloat16's
