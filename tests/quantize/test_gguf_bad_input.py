from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backbone.errors import CheckpointError, NearfarError
from quantize.gguf import convert

Make = Callable[..., Path]


def refusal(source: Path, target: Path, **options: Any) -> str:
    before = sorted(target.parent.iterdir()) if target.parent.is_dir() else []
    with pytest.raises(NearfarError) as caught:
        convert(source, target, **options)
    after = sorted(target.parent.iterdir()) if target.parent.is_dir() else []
    assert before == after, "a refused conversion leaves nothing behind"
    message = str(caught.value)
    assert "\n" not in message
    return message


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_every_bad_source_is_named_in_one_line(make_checkpoint: Make, tmp_path: Path) -> None:
    out = tmp_path / "out" / "m.gguf"
    out.parent.mkdir()
    good = make_checkpoint("llama")
    assert "does not exist" in refusal(tmp_path / "nowhere", out)
    (tmp_path / "empty").mkdir()
    assert "config.json" in refusal(tmp_path / "empty", out)
    assert "unknown GGUF type" in refusal(good, out, kind="q4_k_xl")
    assert "is a folder" in refusal(good, tmp_path / "out")
    assert "per-tensor" in refusal(good, out, kind="f32", overrides={"x": "q8_0"})
    assert "unknown tensor type" in refusal(good, out, overrides={"x": "q9"})
    assert "unknown tensor type" in refusal(good, out, overrides={"x": "i8"})
    assert "regular expression" in refusal(good, out, overrides={"[": "q8_0"})
    short = {"blk.0.attn_q.weight": np.ones(5, dtype=np.float32)}
    assert "imatrix size" in refusal(good, out, importance=short)
    edit_config(good, quantization_config={"quant_method": "gptq"})
    assert "already quantized (gptq)" in refusal(good, out)
    edit_config(good, quantization_config=None, model_type="mamba")
    assert "'mamba'" in refusal(good, out) and "qwen3" in refusal(good, out)
    edit_config(
        good, model_type="llama", rope_scaling={"rope_type": "dynamic"}, rope_parameters=None
    )
    assert "'dynamic'" in refusal(good, out)
    (good / "config.json").write_text("{")
    assert "damaged" in refusal(good, out)


def test_damaged_weights_are_named(make_checkpoint: Make, tmp_path: Path) -> None:
    out = tmp_path / "out" / "m.gguf"
    out.parent.mkdir()
    good = make_checkpoint("llama")
    weights = good / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert "truncated" in refusal(good, out)
    weights.write_bytes(whole[:5])
    assert "truncated" in refusal(good, out)
    weights.unlink()
    assert ".safetensors" in refusal(good, out)
    weights.write_bytes(whole)
    (good / "tokenizer.json").unlink()
    assert "tokenizer.json" in refusal(good, out)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_size": 2**40}, "more than any model"),
        ({"max_position_embeddings": 2**62}, "more than any model"),
        ({"intermediate_size": -1}, "must be 1 or more"),
        ({"num_attention_heads": 0}, "must be 1 or more"),
        ({"head_dim": 10**9}, "more than any model"),
        ({"quantization_config": [1]}, "is no object"),
    ],
)
def test_a_config_that_no_model_has_is_named(
    changes: dict[str, Any], says: str, make_checkpoint: Make, tmp_path: Path
) -> None:
    good = make_checkpoint("llama")
    edit_config(good, **changes)
    assert says in refusal(good, tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("weight_map", "says"),
    [
        ([1], "no weight_map"),
        ({"a": "../other/model.safetensors"}, "no file beside it"),
        ({"a": "/etc/passwd"}, "no file beside it"),
    ],
)
def test_an_index_names_files_beside_it_alone(
    weight_map: object, says: str, make_checkpoint: Make, tmp_path: Path
) -> None:
    good = make_checkpoint("llama")
    index = good / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert says in refusal(good, tmp_path / "m.gguf")


def test_a_cut_off_gguf_is_named(make_checkpoint: Make, tmp_path: Path) -> None:
    out = tmp_path / "out" / "m.gguf"
    out.parent.mkdir()
    whole = convert(make_checkpoint("llama"), tmp_path / "a.gguf", kind="f32").path
    for size in (0, 3, 1000, whole.stat().st_size // 2):
        cut = tmp_path / "cut.gguf"
        shutil.copy(whole, cut)
        os.truncate(cut, size)
        assert "GGUF" in refusal(cut, out)


def test_a_missing_tensor_is_named(make_checkpoint: Make, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    out = tmp_path / "out" / "m.gguf"
    out.parent.mkdir()
    folder = make_checkpoint("llama")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.self_attn.k_proj.weight"]
    save_file(tensors, folder / "model.safetensors")
    assert "blk.1.attn_k.weight" in refusal(folder, out)


def test_too_little_space_is_known_before_writing(
    make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_checkpoint("llama")
    usage = shutil.disk_usage(tmp_path)
    tight = usage._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: tight)
    assert "free some space" in refusal(folder, tmp_path / "m.gguf", kind="q8_0")


def test_the_missing_package_is_named_with_its_extra(
    make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_checkpoint("llama")
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "nearfar[quantize]" in refusal(folder, tmp_path / "m.gguf")


def test_an_old_target_survives_a_failure(make_checkpoint: Make, tmp_path: Path) -> None:
    target = tmp_path / "m.gguf"
    convert(make_checkpoint("llama"), target, kind="q8_0")
    before = target.read_bytes()
    with pytest.raises(CheckpointError):
        convert(tmp_path / "nowhere", target)
    assert target.read_bytes() == before


def test_types_that_need_importance_say_so(make_checkpoint: Make, tmp_path: Path) -> None:
    folder = make_checkpoint("qwen3", hidden_size=256, intermediate_size=256, head_dim=64)
    message = refusal(folder, tmp_path / "m.gguf", kind="iq2_xxs")
    assert "nearfar quantize importance" in message
