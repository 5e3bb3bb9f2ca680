"""A checkpoint folder either runs as transformers runs it, or is refused in one line."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from backbone.attention import causal_attention
from backbone.checkpoint import fingerprint, load_network
from backbone.errors import CheckpointError, MissingExtra
from tests.tiny_checkpoints import FAMILIES, SHARED_MODELS, write_checkpoint

PROMPT = [5, 9, 200, 31, 44, 17, 8, 3, 120, 61, 77, 18]


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("qwen3"), "qwen3")


@pytest.fixture
def folder(qwen3: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may damage."""
    return Path(shutil.copytree(qwen3, tmp_path / "model"))


def damage(folder: Path, change: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def logits_of(folder: Path, tokens: list[int]) -> torch.Tensor:
    network = load_network(folder)
    ids = torch.tensor([tokens])
    with torch.inference_mode():
        hidden = network(ids, torch.arange(len(tokens))[None], causal_attention(network.config))
        return network.logits(hidden)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_logits_equal_transformers(family: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, family)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.inference_mode():
        expected = reference(torch.tensor([PROMPT])).logits
    torch.testing.assert_close(logits_of(tmp_path, PROMPT), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["stories260K", "stories3M"])
def test_trained_models_give_transformers_logits(name: str) -> None:
    folder = SHARED_MODELS / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        expected = reference(torch.tensor([PROMPT])).logits
    torch.testing.assert_close(logits_of(folder, PROMPT), expected, atol=1e-4, rtol=1e-4)


def test_shards_give_the_same_weights_as_one_file(qwen3: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "qwen3", max_shard_size="60KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    whole, sharded = load_network(qwen3), load_network(tmp_path)
    for (name, a), (_, b) in zip(whole.named_parameters(), sharded.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_weights_take_the_dtype_asked_for(qwen3: Path) -> None:
    network = load_network(qwen3, dtype=torch.bfloat16)
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
    assert network.inverse.dtype == torch.float32


def test_no_weight_wants_a_gradient_and_none_is_left_without_storage(qwen3: Path) -> None:
    for name, tensor in load_network(qwen3).state_dict(keep_vars=True).items():
        assert not tensor.requires_grad and tensor.device.type == "cpu", name


def test_a_tied_head_shares_storage(tmp_path: Path) -> None:
    network = load_network(write_checkpoint(tmp_path, "qwen3-tied"))
    assert network.lm_head.weight is network.embed_tokens.weight


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no folder"):
        load_network(tmp_path / "absent")


def test_a_folder_without_config_is_no_checkpoint(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_network(folder)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        load_network(folder)


def test_pickled_weights_are_refused_with_the_remedy(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="convert them to safetensors"):
        load_network(folder)


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.999])
def test_a_truncated_file_is_refused(folder: Path, kept: float) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if 0 < kept < 1 else int(kept)])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_network(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "qwen3", max_shard_size="60KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"shard {shard.name} is missing"):
        load_network(tmp_path)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd"])
def test_an_index_cannot_reach_outside_the_folder(folder: Path, name: str) -> None:
    index = {"weight_map": {"model.norm.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="is missing"):
        load_network(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}'])
def test_a_broken_index_is_refused(folder: Path, text: str) -> None:
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match="fetch"):
        load_network(folder)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    damage(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(CheckpointError, match=r"missing \(layers\.1\.mlp\.up_proj\.weight"):
        load_network(folder)


def test_an_unexpected_tensor_is_named(folder: Path) -> None:
    damage(folder, lambda tensors: tensors.update({"model.extra.weight": torch.ones(2)}))
    with pytest.raises(CheckpointError, match=r"unexpected tensor model\.extra\.weight"):
        load_network(folder)


def test_a_wrong_shape_is_named(folder: Path) -> None:
    damage(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(65)}))
    with pytest.raises(CheckpointError, match=r"norm\.weight is \[65\].*asks for \[64\]"):
        load_network(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(folder: Path, value: float) -> None:
    damage(folder, lambda tensors: tensors["model.norm.weight"].fill_(value))
    with pytest.raises(CheckpointError, match=r"norm\.weight holds NaN"):
        load_network(folder)


def test_quantized_tensors_are_refused(folder: Path) -> None:
    integers = torch.ones(64, dtype=torch.int8)
    damage(folder, lambda tensors: tensors.update({"model.norm.weight": integers}))
    with pytest.raises(CheckpointError, match="unquantized"):
        load_network(folder)


@pytest.mark.parametrize("package", ["torch", "safetensors"])
def test_a_missing_package_is_named(
    folder: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"{package} is not installed; pip install"):
        load_network(folder)


def test_an_unknown_architecture_is_named(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(CheckpointError, match="unknown architecture 'mamba'"):
        load_network(folder)


def test_a_fingerprint_follows_the_content_and_not_the_place(folder: Path, tmp_path: Path) -> None:
    before = fingerprint(folder)
    assert fingerprint(Path(shutil.copytree(folder, tmp_path / "copy"))) == before
    damage(folder, lambda tensors: tensors["model.norm.weight"].mul_(1.001))
    assert fingerprint(folder) != before


def test_a_fingerprint_follows_the_config(folder: Path) -> None:
    before = fingerprint(folder)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, "rms_norm_eps": 1e-5}))
    assert fingerprint(folder) != before


def test_a_large_file_is_sampled_from_end_to_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backbone.checkpoint._WHOLE_FILE_BYTES", 100)
    before = fingerprint(folder)
    path = folder / "model.safetensors"
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.write_bytes(changed)
    assert fingerprint(folder) != before
