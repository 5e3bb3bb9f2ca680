"""The Ray Serve application: `build_app(args)` makes it; one replica is one engine on one GPU.

    serve run cloud.ray_app:build_app model=/models/qwen num_gpus=1

Its HTTP face is whatever `face` makes of an Engine, an ASGI application: by default the one of
serve/, named by a string, since this room does not import that one.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from backbone.errors import MissingExtra
from cloud.fleet.autoscale import SCALING_POLICIES, LoadSample, ScalingOptions, scaling_policy
from cloud.fleet.load_watch import CpuUse, num_cores
from cloud.fleet.recent_latency import RecentLatency
from cloud.fleet.replica import ReplicaOptions
from offload.asker import asked_by
from offload.engine import Breakable
from offload.errors import EngineStopped, SettingsError
from offload.link import wire
from offload.link.failures import to_failure
from offload.link.message_bodies import Deltas, End
from offload.messages import Finish, ForwardedRequest, Request
from offload.priority import prioritized

_EVERY_S = 60.0  # between two samples that are kept
_HISTORY_S = 90_000.0  # `predictive` looks at the same time yesterday

_DEFAULTS: dict[str, Any] = {
    "model": "",  # a folder; the embedded model without
    "engine": "cloud.fleet.replica_main:open_model",
    "arguments": {},
    "face": "serve.app:build_app",
    "min_replicas": 1,
    "max_replicas": 1,
    "target_ongoing_requests": 2.0,
    "upscale_delay_s": 30.0,
    "downscale_delay_s": 600.0,
    "policy": "",  # Ray's own, or one of SCALING_POLICIES
    "max_num_seqs": 128,
    "num_cpus": 1.0,
    "num_gpus": 0.0,
}


def build_app(args: dict[str, Any]) -> Any:
    """Return a `serve.Application`. Raises SettingsError for an argument there is not.

    Arguments are those of a Serve YAML (examples/ray_serve.yaml); names are Ray Serve's and vLLM's.
    """
    try:
        from ray import serve
    except ModuleNotFoundError:
        raise MissingExtra("ray", "ray") from None
    app_args = checked_args(args)
    deployment = serve.deployment(
        name="nearfar",
        # Fewer than max_num_seqs, and the engine would never batch as much as it can.
        max_ongoing_requests=app_args["max_num_seqs"],
        autoscaling_config=autoscaling_config(app_args),
        ray_actor_options={"num_cpus": app_args["num_cpus"], "num_gpus": app_args["num_gpus"]},
        health_check_period_s=2.0,
    )(EngineReplica)
    return deployment.bind(app_args)


def autoscaling_config(app_args: dict[str, Any]) -> dict[str, Any]:
    """Return Ray's autoscaling_config; its names are ours."""
    names = ("min_replicas", "max_replicas", "target_ongoing_requests")
    config = {name: app_args[name] for name in (*names, "upscale_delay_s", "downscale_delay_s")}
    config |= {"metrics_interval_s": 1.0, "look_back_period_s": 5.0}
    if app_args["policy"]:
        config["policy"] = {"policy_function": f"cloud.ray_app:{app_args['policy']}_policy"}
    return config


class EngineReplica:
    """One engine and its HTTP face in a Ray actor."""

    def __init__(self, app_args: dict[str, Any]) -> None:
        from offload.pair import CLOUD_MODEL

        arguments = dict(app_args["arguments"])
        if app_args["engine"] == _DEFAULTS["engine"]:
            arguments.setdefault("folder", app_args["model"] or str(CLOUD_MODEL))
            arguments.setdefault("max_num_seqs", app_args["max_num_seqs"])
        self.engine = _import_named(app_args["engine"])(**arguments)
        self._app = _import_named(app_args["face"])(self.engine)
        self._cpu, self._latency = CpuUse(), RecentLatency()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what `utilization` and `latency` scale by; Ray asks every metrics_interval_s."""
        share = self._cpu.share(os.getpid(), num_cores(ReplicaOptions()))
        return {"utilization": share, "latency_s": self._latency.mean_s()}

    async def __call__(self, request: Any) -> Any:
        """Answer one HTTP request, streamed as the face streams it."""
        from starlette.responses import StreamingResponse

        body = await request.body()
        started: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        pieces: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(64)
        task = asyncio.create_task(self._run(request.scope, body, started, pieces))
        try:
            head = await started
        except asyncio.CancelledError:  # the client has left
            task.cancel()
            raise
        headers = {name.decode(): value.decode() for name, value in head["headers"]}
        return StreamingResponse(_drain(pieces, task), status_code=head["status"], headers=headers)

    async def describe(self) -> bytes:
        """Return the model's card, for cloud/ray_engine.py."""
        return msgspec.msgpack.encode(self.engine.card())

    async def answer(self, message: bytes) -> AsyncIterator[bytes]:
        """Stream the answer to a REQUEST of the link, in the link's own messages."""
        envelope = wire.open_envelope(message)
        pieces: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(64)
        task = asyncio.create_task(self._say(envelope, pieces))
        async with contextlib.aclosing(_drain(pieces, task)) as messages:
            async for each in messages:
                yield each

    async def _say(
        self, envelope: wire.Envelope, pieces: asyncio.Queue[bytes | Exception | None]
    ) -> None:
        count, began_s = 0, self._latency.clock()
        try:
            request = wire.open_body(envelope)
            assert isinstance(request, Request), "a front sends requests"
            who = request if isinstance(request, ForwardedRequest) else ForwardedRequest(prompt="-")
            with asked_by(who.asker), prioritized(who.priority):
                async with contextlib.aclosing(self.engine.generate(request)) as items:
                    async for item in items:
                        said = (
                            End(count, item)
                            if isinstance(item, Finish)
                            else Deltas(count, (wire.pack_delta(item),))
                        )
                        count += 1
                        await pieces.put(wire.encode(said, envelope.id))
            self._latency.note_end(began_s)
        except Exception as error:
            await pieces.put(wire.encode(to_failure(error), envelope.id))
        await pieces.put(None)

    async def check_health(self) -> None:
        """Fail where the engine is closed or broken, so that Ray starts another replica."""
        self.engine.card()
        if isinstance(self.engine, Breakable) and (why := self.engine.broken()) is not None:
            raise EngineStopped(why)

    async def _run(
        self,
        scope: dict[str, Any],
        body: bytes,
        started: asyncio.Future[dict[str, Any]],
        pieces: asyncio.Queue[bytes | Exception | None],
    ) -> None:
        sent, began_s = False, self._latency.clock()

        async def receive() -> dict[str, Any]:
            nonlocal sent
            if sent:
                await asyncio.Event().wait()  # the client's leaving cancels the task instead
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                started.set_result(message)
            elif message.get("body"):
                await pieces.put(message["body"])

        try:
            await self._app(scope, receive, send)
        except Exception as error:
            if started.done():
                await pieces.put(error)
            else:
                started.set_exception(error)
        else:
            if scope["method"] == "POST":  # whoever looks at /metrics waits for no model
                self._latency.note_end(began_s)
            await pieces.put(None)


async def _drain(
    pieces: asyncio.Queue[bytes | Exception | None], task: asyncio.Task[None]
) -> AsyncGenerator[bytes, None]:
    try:
        while (piece := await pieces.get()) is not None:
            if isinstance(piece, Exception):
                raise piece  # so that Ray breaks the answer off instead of ending it well
            yield piece
    finally:
        task.cancel()


def queue_policy(context: Any) -> tuple[int, dict[str, Any]]:
    """Return as many replicas as `queue` of cloud/fleet/autoscale.py asks for."""
    return _decide("queue", context)


def utilization_policy(context: Any) -> tuple[int, dict[str, Any]]:
    """Return as many replicas as `utilization` asks for, by what the replicas say of themselves."""
    return _decide("utilization", context)


def latency_policy(context: Any) -> tuple[int, dict[str, Any]]:
    """Return as many replicas as `latency` asks for, by what the replicas say of themselves."""
    return _decide("latency", context)


def predictive_policy(context: Any) -> tuple[int, dict[str, Any]]:
    """Return as many replicas as `predictive` asks for, by the load that Ray has seen."""
    return _decide("predictive", context)


def _decide(name: str, context: Any) -> tuple[int, dict[str, Any]]:
    """Apply a scaling policy; Ray itself keeps the bounds and the delays."""
    config = context.config
    now = _sample(context)
    samples = _of_one_day((context.policy_state or {}).get("seen", []), now)
    options = ScalingOptions(
        min_replicas=config.min_replicas,
        max_replicas=config.max_replicas,
        target_ongoing_requests=config.target_ongoing_requests,
    )
    wanted = math.ceil(SCALING_POLICIES[name]([*samples, now], options) - 1e-9)
    bounded = min(max(wanted, config.min_replicas), config.max_replicas)
    if not samples or now.at_s - samples[-1].at_s >= _EVERY_S:
        samples.append(now)
    return bounded, {"seen": [asdict(each) for each in samples]}


def _sample(context: Any) -> LoadSample:
    """Return the load that Ray tells; a replica that has said nothing yet is starting."""
    told = context.aggregated_metrics or {}
    shares, latencies = told.get("utilization", {}), told.get("latency_s", {})
    lasted = [latency_s for latency_s in latencies.values() if latency_s]
    return LoadSample(
        at_s=float(context.current_time or 0.0),
        num_replicas=context.current_num_replicas,
        num_starting=max(0, context.current_num_replicas - len(shares)),
        ongoing=float(context.total_num_requests),  # with those that wait before a replica
        utilization=sum(shares.values()) / max(1, context.current_num_replicas),
        latency_s=sum(lasted) / len(lasted) if lasted else 0.0,
    )


def _of_one_day(seen: list[dict[str, Any]], now: LoadSample) -> list[LoadSample]:
    """Return the measures of somewhat more than a day; Ray asks ten times a second."""
    return [LoadSample(**each) for each in seen if now.at_s - each["at_s"] <= _HISTORY_S]


def checked_args(args: dict[str, Any]) -> dict[str, Any]:
    unknown = set(args) - set(_DEFAULTS)
    if unknown:
        raise SettingsError(
            f"unknown argument {sorted(unknown)[0]!r}; known are {', '.join(_DEFAULTS)}"
        )
    app_args = {**_DEFAULTS, **args}
    for name in ("min_replicas", "max_replicas", "max_num_seqs"):
        app_args[name] = int(app_args[name])  # `serve run` hands over text
    for name in ("num_cpus", "num_gpus", "target_ongoing_requests"):
        app_args[name] = float(app_args[name])
    for name in ("upscale_delay_s", "downscale_delay_s"):
        app_args[name] = float(app_args[name])
    if app_args["model"] and not Path(app_args["model"]).is_dir():
        raise SettingsError(
            f"model is {app_args['model']!r}, which is no folder; name a Hugging Face folder"
        )
    if app_args["policy"]:
        scaling_policy(app_args["policy"])  # Ray itself would look for a function of any name
    ScalingOptions(min_replicas=app_args["min_replicas"], max_replicas=app_args["max_replicas"])
    return app_args


def _import_named(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
