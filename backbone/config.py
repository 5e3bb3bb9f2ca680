"""Network configuration: the shape of a decoder, read from a Hugging Face `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbone.errors import CheckpointError, cause
from backbone.families import network_fields, text_config
from backbone.file_reading import MAX_CONFIG_BYTES, read_text
from backbone.files import parse_json as parse_json
from backbone.rope_scaling import RopeScaling

# Far above what there is: each layer costs objects before a weight is looked for.
_MOST = {"num_hidden_layers": 4096, "num_attention_heads": 1 << 16}
_MOST_OF_ANY = 1 << 28
_MOST_EXPERTS = 1 << 16  # of all layers together
_COUNTS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    "num_attention_heads",
    *("num_key_value_heads", "head_dim", "max_position_embeddings"),
)


def check_counts(config: Mapping[str, Any]) -> None:
    """Raise CheckpointError where a count of a network is none that a model can have."""
    for name in _COUNTS:
        value = config.get(name)
        if value is None:  # by the family, or said elsewhere
            continue
        if not isinstance(value, int) or value < 1:
            raise CheckpointError(
                f"{name} is {value!r} in config.json and must be 1 or more; fetch it again"
            )
        if value > _MOST.get(name, _MOST_OF_ANY):
            raise CheckpointError(
                f"{name} is {value} in config.json, more than any model has; fetch it again"
            )


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Configuration of one decoder; field names follow Hugging Face where they exist."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    rope_len: int = 0  # the context it is run with, for longrope; 0 is max_position_embeddings
    local_rope_theta: float | None = None  # of layers with a window, where it is another
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    full_layers: frozenset[int] = frozenset()  # those that see everything, window or not
    window_limit: int | None = None  # a window for all layers, set where the model is run
    num_sinks: int = 0  # first tokens that layers with a window see nonetheless
    eos_token_ids: tuple[int, ...] = ()
    activation: str = "silu"  # or "gelu_tanh"
    norm_offset: float = 0.0  # what is added to the stored weight of every norm
    sandwich_norms: bool = False  # a norm behind attention and feed-forward, too
    embedding_scale: float = 1.0
    query_pre_attn_scalar: float | None = None  # scores are divided by its root; None: head_dim
    attn_logit_softcapping: float | None = None  # scores are bent to stay below it
    final_logit_softcapping: float | None = None
    num_experts: int = 0  # 0 is one dense feed-forward
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0
    norm_topk_prob: bool = False  # whether the chosen experts' weights are made to add up to one
    dense_layers: frozenset[int] = frozenset()  # those without experts

    def __post_init__(self) -> None:
        check_counts({name: getattr(self, name) for name in _COUNTS})
        if self.num_attention_heads % self.num_key_value_heads:
            raise CheckpointError(
                f"num_attention_heads={self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads={self.num_key_value_heads}; the config.json is damaged"
            )
        if self.head_dim % 2:
            raise CheckpointError(
                f"head_dim={self.head_dim} is odd; "
                "rotary embedding needs an even one: use another checkpoint"
            )
        if self.num_experts and not 0 < self.num_experts_per_tok <= self.num_experts:
            raise CheckpointError(
                f"num_experts_per_tok={self.num_experts_per_tok} of num_experts="
                f"{self.num_experts} cannot be; the config.json is damaged"
            )
        if self.num_experts * self.num_hidden_layers > _MOST_EXPERTS:
            raise CheckpointError(
                f"num_experts is {self.num_experts} in {self.num_hidden_layers} layers, more than "
                "any model has; fetch it again"
            )

    def window(self, layer: int) -> int | None:
        """Return how many tokens a layer sees, the newest included; None is all."""
        found = [w for w in (self._own_window(layer), self.window_limit) if w is not None]
        return min(found, default=None)

    def _own_window(self, layer: int) -> int | None:
        return None if layer in self.full_layers else self.sliding_window

    def windows(self) -> list[int | None]:
        """Return the window of every layer."""
        return [self.window(layer) for layer in range(self.num_hidden_layers)]

    def rope_base(self, layer: int) -> int:
        """Return which of the rotary bases a layer turns by: 0, or 1 for Gemma 3's windows."""
        return int(self.local_rope_theta is not None and self._own_window(layer) is not None)

    def has_experts(self, layer: int) -> bool:
        """Return whether a layer chooses among experts."""
        return self.num_experts > 0 and layer not in self.dense_layers

    @property
    def query_scale(self) -> float:
        """Return what queries are multiplied by, so that scores over sqrt(head_dim) are right."""
        if self.query_pre_attn_scalar is None:
            return 1.0
        return float((self.head_dim / self.query_pre_attn_scalar) ** 0.5)

    @classmethod
    def from_hf(cls, raw: dict[str, Any]) -> NetworkConfig:
        """Read a parsed `config.json`. Raises CheckpointError for shapes this code cannot run."""
        text = text_config(raw)
        try:
            return cls(**network_fields(text))
        except KeyError as missing:
            raise CheckpointError(f"config.json lacks {missing}; fetch the model again") from None
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise CheckpointError(
                f"config.json makes no sense ({error}); fetch the model again"
            ) from None

    @classmethod
    def load(cls, folder: Path) -> NetworkConfig:
        """Read `folder/config.json`."""
        path = config_file(folder)
        try:
            raw = parse_json(read_text(path, MAX_CONFIG_BYTES, pipes=False))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{path} is not valid JSON ({cause(error)}); fetch the model again"
            ) from None
        if not isinstance(raw, dict):
            raise CheckpointError(f"{path} is not a JSON object; fetch the model again")
        return cls.from_hf(raw)


def config_file(folder: Path) -> Path:
    """Return a checkpoint's config.json. Raises CheckpointError where it, or the folder, is not."""
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}; name a Hugging Face model folder")
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is no checkpoint: it has no config.json; name a Hugging Face folder"
        )
    return path
