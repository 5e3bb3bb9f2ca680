"""Models for the edge's tests: tiny ones made here, and trained ones where they are at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.edge.hubs import Hub

SHARED_MODELS = Path(__file__).parents[2].parent / "shared" / "models"
SPECIALS = ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def byte_alphabet() -> list[str]:
    """Return how byte-level BPE writes each of the 256 bytes as one character (GPT-2)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = {byte: 256 + n for n, byte in enumerate(b for b in range(256) if b not in plain)}
    return [chr(others.get(byte, byte)) for byte in range(256)]


def write_tiny_gguf(
    path: Path,
    *,
    context_len: int = 256,
    chat_template: str | None = CHAT_TEMPLATE,
    tokenizer: str = "gpt2",
    hidden: int = 128,
    head: int = 64,
    num_layers: int = 2,
    seed: int = 0,
    add: Callable[[gguf.GGUFWriter], object] = lambda writer: None,
    marks: Sequence[str] = (),
    spoil: Callable[[str, np.ndarray], np.ndarray] = lambda name, weight: weight,
) -> Path:
    """Write a llama of random weights and a vocabulary of bytes."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(context_len)
    writer.add_embedding_length(hidden)
    writer.add_block_count(num_layers)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(hidden // head)
    writer.add_head_count_kv(hidden // head)
    writer.add_rope_dimension_count(head)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    num_tokens = _add_vocabulary(writer, tokenizer, chat_template, marks)
    add(writer)
    rng = np.random.default_rng(seed)
    shapes = {"token_embd": (num_tokens, hidden), "output": (num_tokens, hidden)}
    for layer in range(num_layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            shapes[f"blk.{layer}.{name}"] = (hidden, hidden)
        for name in ("attn_norm", "ffn_norm"):
            shapes[f"blk.{layer}.{name}"] = (hidden,)
    shapes["output_norm"] = (hidden,)
    for name, shape in shapes.items():
        weight = np.ones(shape) if len(shape) == 1 else rng.normal(0, 0.15, shape)
        writer.add_tensor(f"{name}.weight", spoil(name, weight.astype(np.float32)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(
    writer: gguf.GGUFWriter, tokenizer: str, chat_template: str | None, marks: Sequence[str]
) -> int:
    controls = [*SPECIALS, *marks]
    tokens = [*byte_alphabet(), "th", *controls]
    writer.add_tokenizer_model(tokenizer)
    if tokenizer == "no_vocab":
        writer.add_vocab_size(len(tokens))
        return len(tokens)
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    kinds = [gguf.TokenType.NORMAL] * 257 + [gguf.TokenType.CONTROL] * len(controls)
    writer.add_token_types(kinds)
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(257)
    writer.add_add_bos_token(False)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    return len(tokens)


@pytest.fixture(scope="session", autouse=True)
def steady_threads() -> Iterator[None]:
    """One thread wherever a governor would choose: torch rounds by how many there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edge.device.cpu_load.num_usable_cores", lambda: 1)
        yield


@pytest.fixture
def always_drafted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draft at every step, whatever the clock of the machine says that drafts cost."""
    monkeypatch.setattr("engine.draft_gate.DraftGate.wanted", lambda self: True)
    monkeypatch.setattr("engine.draft_gate.StepTimes.ratio", lambda self, n: 1 + 0.001 * n)
    monkeypatch.setattr("edge.llama.model_drafter.DraftCache.can_pay", lambda self: True)
    monkeypatch.setattr(
        "edge.llama.model_drafter.DraftCache.guessed", lambda self, n, seconds: None
    )


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF of random weights: byte vocabulary, chat template, context of 256."""
    return write_tiny_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="session")
def make_tiny_gguf() -> Callable[..., Path]:
    """The writer of tiny GGUFs, for tests that need another one."""
    return write_tiny_gguf


@pytest.fixture(scope="session", params=["stories260K", "stories3M"])
def stories(request: pytest.FixtureRequest) -> Path:
    """The folder of a small trained model: a Hugging Face checkpoint and the same as GGUF."""
    folder = SHARED_MODELS / request.param
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; trained models are tested where it is")
    return folder


@pytest.fixture(scope="session")
def stories_gguf(stories: Path) -> Path:
    """The GGUF of that folder."""
    return stories / f"{stories.name}-f32.gguf"


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    served = Hub()
    monkeypatch.setenv("HF_ENDPOINT", served.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield served
    served.close()


@pytest.fixture(autouse=True)
def nobody_elses_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("OLLAMA_MODELS", "LMSTUDIO_MODELS", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))


@pytest.fixture
def stumble(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[list[int]], None]], None]:
    """Let a function of a step's tokens fail the step, by what it raises."""
    from engine.torch.runner import Runner
    from engine.torch.step import Slice

    whole = Runner.step

    def install(check: Callable[[list[int]], None]) -> None:
        def call(self: Runner, slices: list[Slice]) -> Any:
            check([token for slice_ in slices for token in slice_.tokens])
            return whole(self, slices)

        monkeypatch.setattr(Runner, "step", call)

    return install
