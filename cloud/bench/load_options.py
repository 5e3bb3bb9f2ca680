"""The options of the load test, each declared once; the names are those of `vllm bench serve`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated

import typer
from msgspec import Meta

from backbone.declared_options import require_bounds
from offload.errors import SettingsError

METRICS = ("ttft", "tpot", "e2el")


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """The options of one run. Raises SettingsError.

    `percentiles` and `bounds_ms` are what `metric_percentiles` and `goodput` say.
    """

    base_url: Annotated[str, typer.Option(help="Any OpenAI-compatible server, as http://.../v1.")]
    model: Annotated[str, typer.Option(help="Which of its models.")] = "auto"
    num_prompts: Annotated[int, Meta(gt=0), typer.Option(help="How many requests.")] = 100
    request_rate: Annotated[
        float, Meta(gt=0), typer.Option(help="Requests a second; inf is all at once.")
    ] = math.inf
    burstiness: Annotated[
        float, Meta(gt=0), typer.Option(help="1 is a Poisson process; less comes in bursts.")
    ] = 1.0
    max_concurrency: Annotated[
        int, Meta(ge=0), typer.Option(help="At most so many at once; 0 is any.")
    ] = 0
    num_warmups: Annotated[
        int, Meta(ge=0), typer.Option(help="Requests before the clock starts.")
    ] = 1
    output_len: Annotated[
        int, Meta(gt=0), typer.Option(help="Tokens of each answer, at the most.")
    ] = 64
    metric_percentiles: Annotated[str, typer.Option(help="Which percentiles.")] = "50,90,99"
    goodput: Annotated[
        list[str], typer.Option(help="A bound in ms, as ttft:500; may be repeated.")
    ] = field(default_factory=list)
    seed: Annotated[int, typer.Option(help="Of the arrivals.")] = 0
    prompt: str = "Count from one to twenty, number {number}."
    api_key: str = field(default="", repr=False)
    timeout_s: float = 600.0
    percentiles: tuple[float, ...] = field(init=False)
    bounds_ms: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        require_bounds(self, SettingsError)
        object.__setattr__(self, "percentiles", _percentiles(self.metric_percentiles))
        object.__setattr__(self, "bounds_ms", _bounds_ms(self.goodput))


def _percentiles(text: str) -> tuple[float, ...]:
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise SettingsError(f"metric-percentiles is {text!r}; write it as 50,90,99") from None
    for share in shares:
        if not 0 <= share <= 100:
            raise SettingsError(f"metric-percentiles has {share}; it must be from 0 to 100")
    return shares


def _bounds_ms(words: list[str]) -> dict[str, float]:
    try:
        bounds = {name: float(bound) for name, bound in (word.split(":") for word in words)}
    except ValueError:
        raise SettingsError(f"goodput is {' '.join(words)!r}; write it as ttft:500") from None
    for name in bounds:
        if name not in METRICS:
            raise SettingsError(f"goodput names {name!r}; known are {', '.join(METRICS)}")
    return bounds
