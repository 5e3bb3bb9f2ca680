"""Training loop: Muon for matrices, AdamW for the rest, resumable from safetensors."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW, Muon, Optimizer

from backbone.attention import causal_attention
from backbone.config import NetworkConfig
from backbone.files import SHARED, replacement
from backbone.network import Network
from scripts.pair.packing import batches


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One member of the pair: its shape, and how long and on what it is trained."""

    name: str
    worked: bool
    num_steps: int
    num_hidden_layers: int
    intermediate_size: int
    hidden_size: int = 256
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    seq_len: int = 256
    batch_size: int = 8
    muon_lr: float = 0.01
    adam_lr: float = 3e-3
    warmup_steps: int = 100
    decay_share: float = 0.35  # the learning rate falls linearly to zero over this last share

    def config(self, vocab_size: int) -> NetworkConfig:
        """Return the network's shape, Qwen3's: q/k norms, tied embeddings."""
        return NetworkConfig(
            model_type="qwen3",
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_key_value_heads,
            head_dim=64,
            max_position_embeddings=512,
            rope_theta=10000.0,
            tie_word_embeddings=True,
            qk_norm=True,
            eos_token_ids=(0,),
        )

    def rate(self, step: int) -> float:
        """Return the factor on the learning rates at this step."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        left = (self.num_steps - step) / (self.num_steps * self.decay_share)
        return warm * min(1.0, left)


class Learner(nn.Module):
    """The network with its loss, as one module that torch.compile can take whole."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        positions = torch.arange(inputs.shape[1], device=inputs.device).expand_as(inputs)
        attend = causal_attention(self.network.config)
        hidden = self.network(inputs, positions, attend)
        logits = self.network.logits(hidden)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def build(recipe: Recipe, vocab_size: int, seed: int = 0) -> Network:
    """Return a freshly initialised network; residual outputs start small."""
    torch.manual_seed(seed)
    network = Network(recipe.config(vocab_size))
    for name, parameter in network.named_parameters():
        if parameter.ndim == 2:
            width = parameter.shape[1]
            nn.init.normal_(parameter, std=0.02 if "embed" in name else width**-0.5)
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            nn.init.zeros_(parameter)
    return network


def optimizers(network: Network, recipe: Recipe) -> list[Optimizer]:
    """Return Muon (Jordan et al., 2024) for the blocks' matrices and AdamW for the rest."""
    matrices = [p for p in network.layers.parameters() if p.ndim == 2]
    others = [p for p in network.parameters() if p.ndim != 2]
    adam = [
        {"params": [network.embed_tokens.weight], "weight_decay": 0.01},
        {"params": others, "weight_decay": 0.0},
    ]
    return [
        Muon(matrices, lr=recipe.muon_lr, weight_decay=0.05, adjust_lr_fn="original"),
        AdamW(adam, lr=recipe.adam_lr, betas=(0.9, 0.98), fused=True),
    ]


def train(
    recipe: Recipe,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    device: str,
    compiled: bool,
    save_every: int = 500,
) -> Iterator[tuple[int, float, Network]]:
    """Train to the recipe's end from the last checkpoint; yield (step, loss, network) by hundreds.

    Checkpoints go to `folder/NAME.safetensors` and are written beside themselves, then renamed.
    """
    network = build(recipe, tokenizer.get_vocab_size()).to(device)
    tools = optimizers(network, recipe)
    start = _resume(folder / recipe.name, network, tools)
    learner = Learner(network)
    step_loss = torch.compile(learner) if compiled else learner
    source = batches(
        tokenizer,
        worked=recipe.worked,
        batch_size=recipe.batch_size,
        seq_len=recipe.seq_len,
        folder=folder / "shards",
        start=start,
    )
    running, since = torch.zeros((), device=device), time.monotonic()
    for step in range(start, recipe.num_steps):
        inputs, targets = (torch.from_numpy(part).to(device) for part in next(source))
        for tool in tools:
            for group in tool.param_groups:
                group.setdefault("peak_lr", group["lr"])
                group["lr"] = group["peak_lr"] * recipe.rate(step)
        loss = step_loss(inputs, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for tool in tools:
            tool.step()
            tool.zero_grad(set_to_none=True)
        running += loss.detach()
        done = step + 1
        if done % save_every == 0 or done == recipe.num_steps:
            _save(folder / recipe.name, network, tools, done)
        if done % 100 == 0 or done == recipe.num_steps:
            elapsed = time.monotonic() - since
            _log(folder / f"{recipe.name}.jsonl", done, float(running) / 100, elapsed)
            yield done, float(running) / 100, network
            running.zero_()
            since = time.monotonic()


def _log(path: Path, step: int, loss: float, elapsed_s: float) -> None:
    with path.open("a") as file:
        row = {"step": step, "loss": round(loss, 5), "s": round(elapsed_s, 1)}
        file.write(json.dumps(row) + "\n")


def _save(path: Path, network: Network, tools: list[Optimizer], step: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {f"net.{n}": p.detach().contiguous() for n, p in network.named_parameters()}
    for index, tool in enumerate(tools):
        for key, state in tool.state_dict()["state"].items():
            weights |= {f"opt.{index}.{key}.{n}": torch.as_tensor(v) for n, v in state.items()}
    with replacement(path.with_suffix(".safetensors"), mode=SHARED) as partial:
        save_file(weights, partial, metadata={"step": str(step)})
    (path.parent / f"{path.name}.step").write_text(str(step))


def _resume(path: Path, network: Network, tools: list[Optimizer]) -> int:
    stored = path.with_suffix(".safetensors")
    if not stored.exists():
        return 0
    tensors = load_file(stored)
    network.load_state_dict(
        {n: tensors[f"net.{n}"] for n, _ in network.named_parameters()}, strict=False
    )
    for index, tool in enumerate(tools):
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            kind, *rest = name.split(".")
            if kind == "opt" and rest[0] == str(index):
                state.setdefault(int(rest[1]), {})[rest[2]] = tensor
        whole = tool.state_dict()
        whole["state"] = state
        tool.load_state_dict(whole)
    return int((path.parent / f"{path.name}.step").read_text())


EDGE = Recipe(name="edge", worked=False, num_steps=3500, num_hidden_layers=2, intermediate_size=256)
CLOUD = Recipe(
    name="cloud", worked=True, num_steps=6000, num_hidden_layers=4, intermediate_size=768
)
