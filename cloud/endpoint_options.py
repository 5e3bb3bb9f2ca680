"""The options of `nearfar cloud serve`, each declared once: its flag, its default and its help."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, get_args, get_type_hints

import msgspec
import typer

from backbone.declared_options import require_bounds
from backbone.terminal_text import echo
from cloud.fleet.autoscale import ScalingOptions, scaling_policy
from offload.errors import SettingsError

_FLAGS = (
    "device",
    "max_model_len",
    "tensor_parallel_size",
    "tokenizer",
    "profile",
)  # these have flags of their own
_TARGETS = {
    "queue": "target_ongoing_requests",
    "predictive": "target_ongoing_requests",
    "utilization": "target_utilization",
    "latency": "target_latency_s",
}
_SWITCHES = {"on": "true", "off": "false", "yes": "true", "no": "false"}
_SWITCHES |= dict.fromkeys(("auto", "none"), "null")


@dataclass(frozen=True, kw_only=True)
class EndpointOptions:
    """The options of one endpoint. Raises SettingsError for those that exclude each other."""

    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="A Hugging Face folder or GGUF file; the embedded one without."
        ),
    ] = None
    tokenizer: Annotated[
        str, typer.Option(help="A folder whose tokenizer is taken instead of the model's own.")
    ] = ""
    bind: Annotated[
        str, typer.Option(help="Where to listen; CURVE guards it, on loopback too.")
    ] = "tcp://127.0.0.1:7070"
    http: Annotated[
        str | None, typer.Option(help="HOST:PORT for OpenAI clients too, from the same engine.")
    ] = None
    upstream: Annotated[
        str | None,
        typer.Option(help="An OpenAI-compatible server to stand in front of, as http://.../v1."),
    ] = None
    upstream_model: Annotated[
        str, typer.Option(help="Which of its models; the first it lists unless set.")
    ] = ""
    replica_at: Annotated[
        list[str],
        typer.Option(
            help="An engine elsewhere to balance, tcp://HOST:PORT[,SERVER_KEY] or http://.../v1; "
            "may be repeated."
        ),
    ] = field(default_factory=list)
    ray_app: Annotated[
        str, typer.Option(help="A Ray Serve application of cloud/ray_app.py to stand in front of.")
    ] = ""
    model_pool: Annotated[
        str | None,
        typer.Option(help="A folder of model folders: each is loaded when it is asked for."),
    ] = None
    shelf: Annotated[
        str | None, typer.Option(help="The older name of --model-pool.", hidden=True)
    ] = None
    max_loaded: Annotated[
        int,
        msgspec.Meta(ge=1),
        typer.Option(help="How many models of --model-pool may be in memory."),
    ] = 1
    num_replicas: Annotated[
        int,
        msgspec.Meta(ge=1, le=256),
        typer.Option("--replicas", help="Engine processes; with --device cuda each has a GPU."),
    ] = 1
    min_replicas: Annotated[
        int, msgspec.Meta(ge=1, le=256), typer.Option(help="Engine processes at least.")
    ] = 1
    max_replicas: Annotated[
        int,
        msgspec.Meta(ge=0, le=256),
        typer.Option(help="Engine processes at most: their number follows the load."),
    ] = 0
    scale_by: Annotated[
        str,
        typer.Option(help="What the number follows: queue, utilization, latency or predictive."),
    ] = "queue"
    scale_target: Annotated[
        float,
        msgspec.Meta(ge=0),
        typer.Option(
            help="What each should bear: answers at once (queue, predictive: 2), the share of its "
            "cores (utilization: 0.7), seconds an answer (latency: 2). 0: as said here."
        ),
    ] = 0.0
    upscale_delay_s: Annotated[
        float,
        msgspec.Meta(ge=0),
        typer.Option("--upscale-delay", help="Seconds that a need lasts before one is started."),
    ] = 30.0
    downscale_delay_s: Annotated[
        float,
        msgspec.Meta(ge=0),
        typer.Option("--downscale-delay", help="Seconds without need before one is drained."),
    ] = 600.0
    tensor_parallel_size: Annotated[
        int, typer.Option(help="Processes that share one model; with --device cuda one a GPU.")
    ] = 1
    balance: Annotated[
        str,
        typer.Option(
            help="Who answers: prefix-aware, power-of-two, least-connections, round-robin, "
            "weighted or load-aware."
        ),
    ] = "prefix-aware"
    replica_weights: Annotated[
        str, typer.Option(help="The replicas' shares, as 2,1,1, for weighted and load-aware.")
    ] = ""
    gpus: Annotated[
        str, typer.Option(help="Which GPU each replica sees, as 0,2; the first ones unless set.")
    ] = ""
    cores: Annotated[
        str, typer.Option(help="Which cores each replica runs on: 0-3,4-7, or auto.")
    ] = ""
    device: Annotated[str, typer.Option(help="cuda, cpu, or auto.")] = "auto"
    max_model_len: Annotated[
        int, typer.Option(help="The context length in tokens; 0 is the model's own.")
    ] = 0
    engine: Annotated[
        list[str],
        typer.Option(help="An option of the engine, as kv_cache_dtype=int8; may be repeated."),
    ] = field(default_factory=list)
    profile: Annotated[
        str, typer.Option(help="Write a trace of some of the engine's steps to this file.")
    ] = ""
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the address and keys as one JSON line.")
    ] = False

    def __post_init__(self) -> None:
        require_bounds(self, SettingsError)
        if self.shelf:
            echo("nearfar: --shelf is called --model-pool now", err=True)
            object.__setattr__(self, "model_pool", self.model_pool or self.shelf)
        self._check_scaling()
        self._check_remote()
        if self.upstream and (self.model or self.tokenizer or self.has_replicas):
            raise SettingsError(
                "--upstream is one server; leave out --model, --tokenizer and --replicas"
            )
        alone = self.model or self.tokenizer or self.has_replicas
        if self.model_pool and (self.upstream or alone):
            raise SettingsError(
                "--model-pool names its own models; leave out the other flags for them"
            )
        if self.tensor_parallel_size > 1 and (self.upstream or self.has_replicas):
            raise SettingsError(
                "--tensor-parallel-size shares one model; leave out --upstream and --replicas"
            )
        if self.profile and (self.upstream or self.model_pool or self.has_replicas):
            raise SettingsError(
                "--profile is of one engine; leave out --upstream, --model-pool and --replicas"
            )
        if self.upstream and self.engine:
            raise SettingsError("--upstream has an engine of its own; leave out --engine")
        if not self.has_replicas and (self.replica_weights or self.gpus or self.cores):
            raise SettingsError(
                "--replica-weights, --gpus and --cores need --replicas or --max-replicas above 1"
            )

    def _check_remote(self) -> None:
        of_here = (
            *(self.model, self.tokenizer, self.upstream, self.model_pool, self.engine),
            *(self.gpus, self.cores, self.num_replicas > 1, self.max_replicas, self.profile),
        )
        if self.replica_at and (any(of_here) or self.ray_app):
            raise SettingsError(
                "--replica-at names engines that run elsewhere; leave out what says how one runs "
                "here (start `nearfar cloud serve` for that, and name its address too)"
            )
        if self.ray_app and any(of_here):
            raise SettingsError(
                "--ray-app has engines of its own; leave out what says how one runs here"
            )

    def _check_scaling(self) -> None:
        if self.max_replicas and self.num_replicas > 1:
            raise SettingsError(
                "--replicas is a fixed number and --max-replicas one that follows the load; "
                "leave one of them out"
            )
        if not self.max_replicas and self.min_replicas > 1:
            raise SettingsError("--min-replicas needs --max-replicas; or write --replicas")
        scaling_policy(self.scale_by)
        self.scaling()  # which checks the bounds

    @property
    def most_replicas(self) -> int:
        """How many engine processes there may be at once."""
        return len(self.replica_at) or self.max_replicas or self.num_replicas

    @property
    def has_replicas(self) -> bool:
        """Whether engines run in processes of their own, balanced."""
        return bool(self.replica_at) or self.most_replicas > 1

    def scaling(self) -> ScalingOptions | None:
        """Return how the number of replicas follows the load, None where it is fixed."""
        if not self.max_replicas:
            return None
        told = {_TARGETS[self.scale_by]: self.scale_target} if self.scale_target else {}
        return ScalingOptions(
            min_replicas=self.min_replicas,
            max_replicas=self.max_replicas,
            upscale_delay_s=self.upscale_delay_s,
            downscale_delay_s=self.downscale_delay_s,
            **told,
        )


def read_settings(typed: Sequence[str]) -> dict[str, object]:
    """Return EngineOptions' fields by name, from NAME=VALUE texts.

    Raises SettingsError for an unknown name, a name given twice, or a value of another type;
    what values are allowed is checked by EngineOptions itself.
    """
    from engine.torch.options import EngineOptions

    kinds = get_type_hints(EngineOptions)
    read: dict[str, object] = {}
    for text in typed:
        name, equals, value = (part.strip() for part in text.partition("="))
        name = name.replace("-", "_")
        if not equals:
            raise SettingsError(f"--engine {text} has no value; write it as NAME=VALUE")
        if name in read:
            raise SettingsError(f"--engine {name} is given twice; leave one of them out")
        read[name] = _value(name, value, kinds)
    return read


def _value(name: str, value: str, kinds: Mapping[str, Any]) -> object:
    if name in _FLAGS:
        raise SettingsError(f"--engine {name} has a flag of its own: --{name.replace('_', '-')}")
    if name not in kinds:
        near = difflib.get_close_matches(name, kinds, 1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise SettingsError(
            f"the engine has no option {name!r}{meant}; docs/cloud-engine.md lists them"
        )
    if bool in (kinds[name], *get_args(kinds[name])):
        value = _SWITCHES.get(value.lower(), value.lower())
    try:
        return msgspec.convert(value, kinds[name], strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"--engine {name}={value} does not fit: {error}") from None
