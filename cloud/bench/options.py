"""What a run of the load test asks for; the names are those of `vllm bench serve`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from offload.errors import SettingsError

METRICS = ("ttft", "tpot", "e2el")


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """One run. Raises SettingsError.

    `request_rate` is in requests a second, `inf` sends all at once; `burstiness` 1 makes arrivals
    a Poisson process, less makes them come in bursts. `goodput` bounds metrics in milliseconds.
    """

    base_url: str
    model: str = "auto"
    num_prompts: int = 100
    request_rate: float = math.inf
    burstiness: float = 1.0
    max_concurrency: int = 0  # 0: no limit
    num_warmups: int = 1
    output_len: int = 64
    prompt: str = "Count from one to twenty, number {number}."
    metric_percentiles: tuple[float, ...] = (50.0, 90.0, 99.0)
    goodput: dict[str, float] = field(default_factory=dict)
    api_key: str = field(default="", repr=False)
    seed: int = 0
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        _above("num-prompts", self.num_prompts)
        _above("request-rate", self.request_rate)
        _above("burstiness", self.burstiness)
        _above("output-len", self.output_len)
        for share in self.metric_percentiles:
            if not 0 <= share <= 100:
                raise SettingsError(f"metric-percentiles has {share}; it must be from 0 to 100")
        for name in self.goodput:
            if name not in METRICS:
                raise SettingsError(f"goodput names {name!r}; known are {', '.join(METRICS)}")


def read_goodput(words: list[str]) -> dict[str, float]:
    """Return the bounds of words such as `ttft:500`. Raises SettingsError."""
    try:
        return {name: float(bound) for name, bound in (word.split(":") for word in words)}
    except ValueError:
        raise SettingsError(f"goodput is {' '.join(words)!r}; write it as ttft:500") from None


def read_percentiles(text: str) -> tuple[float, ...]:
    """Return the numbers of a list such as `50,90,99`. Raises SettingsError."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise SettingsError(f"metric-percentiles is {text!r}; write it as 50,90,99") from None


def _above(name: str, value: float) -> None:
    if not value > 0:
        raise SettingsError(f"{name} is {value}; it must be above 0")
