"""LoRA adapters of a GGUF model: they count as their scale says, and are part of its name."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from backbone.errors import CheckpointError
from edge.llama.adapters import Adapter, parse_adapters
from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from edge.near.edge_factory import llama_options
from edge.near.rule_choice import content_of
from offload.config.places import places
from offload.config.settings import EdgeSettings, Settings
from offload.errors import SettingsError
from offload.messages import Delta, Request, Sampling

RANK, HIDDEN = 4, 128


def write_adapter(path: Path, *, hidden: int = HIDDEN, architecture: str = "llama") -> Path:
    """Write an adapter of the tiny model's queries and feed-forwards."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(RANK))
    rng = np.random.default_rng(1)
    for layer in range(2):
        for name in ("attn_q", "ffn_down"):
            a = rng.normal(0, 0.3, (RANK, hidden)).astype(np.float32)
            b = rng.normal(0, 0.3, (hidden, RANK)).astype(np.float32)
            writer.add_tensor(f"blk.{layer}.{name}.weight.lora_a", a)
            writer.add_tensor(f"blk.{layer}.{name}.weight.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("lora") / "style.gguf")


def logprobs(model: Path, *adapters: Adapter) -> list[float]:
    """Return how likely the model finds each token of a prompt."""
    engine = LlamaEngine(model, options=LlamaOptions(num_threads=1, adapters=adapters))
    asked = Sampling(max_tokens=1, prompt_logprobs=True)
    items = list(engine.answer(Request(prompt="what is near", sampling=asked)))
    engine.close()
    told = [token.logprob for i in items if isinstance(i, Delta) for token in i.prompt_tokens]
    return [each for each in told if each is not None]


def test_an_adapter_counts_as_its_scale_says(tiny_gguf: Path, adapter: Path) -> None:
    plain = logprobs(tiny_gguf)
    assert logprobs(tiny_gguf, Adapter(adapter, 0.0)) == pytest.approx(plain, abs=1e-4)
    full, half = logprobs(tiny_gguf, Adapter(adapter)), logprobs(tiny_gguf, Adapter(adapter, 0.5))
    assert max(abs(a - b) for a, b in zip(plain, full, strict=True)) > 0.01
    assert full != half
    both = logprobs(tiny_gguf, Adapter(adapter), Adapter(adapter, -1.0))
    assert both == pytest.approx(plain, abs=1e-3), "what one adds the other takes away"


def test_embeddings_are_those_of_the_model_with_its_adapter(tiny_gguf: Path, adapter: Path) -> None:
    def vector(*adapters: Adapter) -> list[float]:
        engine = LlamaEngine(tiny_gguf, options=LlamaOptions(num_threads=1, adapters=adapters))
        found = engine.embedder.embed(["near"])[0]
        engine.close()
        return found

    assert np.dot(vector(), vector(Adapter(adapter))) < 0.9999


@pytest.mark.parametrize("wrong", [{"hidden": 64}, {"architecture": "qwen2"}])
def test_an_adapter_of_another_model_is_refused(
    tiny_gguf: Path, tmp_path: Path, wrong: dict[str, object]
) -> None:
    path = write_adapter(tmp_path / "other.gguf", **wrong)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"other\.gguf is no LoRA adapter of this model"):
        LlamaEngine(tiny_gguf, options=LlamaOptions(num_threads=1, adapters=(Adapter(path),)))
    with pytest.raises(CheckpointError, match="no LoRA adapter"):
        LlamaEngine(tiny_gguf, options=LlamaOptions(adapters=(Adapter(tiny_gguf),)))


def test_a_file_and_its_scale_are_read(tmp_path: Path, adapter: Path) -> None:
    odd = write_adapter(tmp_path / "a:b.gguf")
    text = f"{adapter}, {adapter}:0.5,{odd},{odd}:-2"
    expected = (Adapter(adapter), Adapter(adapter, 0.5), Adapter(odd), Adapter(odd, -2.0))
    assert parse_adapters(text) == expected and parse_adapters("") == ()
    for wrong in (f"{adapter}:1e9", f"{adapter}:nan", f"{tmp_path}/none.gguf", f"{adapter}:x"):
        with pytest.raises(SettingsError, match=r"edge\.lora"):
            parse_adapters(wrong)


def test_a_model_with_another_adapter_is_another_model(tiny_gguf: Path, adapter: Path) -> None:
    def name(lora: str) -> str:
        return content_of(tiny_gguf, Settings(edge=EdgeSettings(lora=lora)))

    names = {name(""), name(str(adapter)), name(f"{adapter}:0.5"), name(f"{adapter},{adapter}")}
    assert len(names) == 4
    settings = Settings(edge=EdgeSettings(lora=f"{adapter}:0.5"))
    options = llama_options(tiny_gguf, settings, places())
    assert options.adapters == (Adapter(adapter, 0.5),)
