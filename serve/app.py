"""HTTP app: the routes of an engine, behind authentication."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backbone.errors import NearfarError
from offload.engine import ByModel, Choosing, Engine
from offload.link.quota import QuotaMeter
from serve.admission import Admission
from serve.auth import Authentication
from serve.completion_endpoint import CHAT, COMPLETIONS, RESPONSES, ApiForm, C, CompletionEndpoint
from serve.http_bodies import error_response
from serve.http_errors import body_of, of_status
from serve.json_endpoints import JsonEndpoint, detokenize, embed, tokenize
from serve.metrics import CONTENT_TYPE, Metrics
from serve.model_names import engine_of, model_names
from serve.openapi import Described, DescribedRoute, document
from serve.options import ServeOptions
from serve.readiness import Readiness
from serve.request_log import Trace
from serve.request_schema import DetokenizeBody, EmbeddingBody, N, TokenizeBody
from serve.response_bodies import ModelList, ModelReply


@dataclass(frozen=True, kw_only=True)
class AppParts:
    """What further routes share with those of OpenAI's API."""

    engine: Engine
    models: ByModel | None
    options: ServeOptions
    admission: Admission
    meter: QuotaMeter
    metrics: Metrics


def build_app(
    engine: Engine,
    *,
    options: ServeOptions | None = None,
    models: ByModel | None = None,
    further: Callable[[AppParts], Sequence[Route]] = lambda _: (),
) -> Starlette:
    """Return the ASGI app; the engine stays the caller's to close.

    `models` are further models, asked by their names, `further` makes more routes behind the same
    door.
    """
    options = options or ServeOptions()
    metrics, readiness = Metrics(engine), Readiness(engine, is_ready=not options.warm_up)
    meter = QuotaMeter(options.quota, options.used_file, who="this key", scope="http:")
    admission = Admission(
        max_running=options.max_running,
        max_queued=options.max_queued,
        meter=meter,
        metrics=metrics,
    )

    def answered(form: ApiForm[C]) -> CompletionEndpoint[C]:
        return CompletionEndpoint(
            engine=engine,
            models=models,
            options=options,
            metrics=metrics,
            admission=admission,
            form=form,
        )

    def posted(
        kind: type[N], answer: Callable[[N, Engine], Awaitable[msgspec.Struct]]
    ) -> JsonEndpoint[N]:
        return JsonEndpoint(
            engine=engine,
            models=models,
            options=options,
            admission=admission,
            kind=kind,
            answer=answer,
        )

    parts = AppParts(
        engine=engine,
        models=models,
        options=options,
        admission=admission,
        meter=meter,
        metrics=metrics,
    )
    info = _InfoRoutes(engine, models, metrics, readiness)
    routes = [
        Route("/v1/chat/completions", answered(CHAT), methods=["POST"]),
        Route("/v1/responses", answered(RESPONSES), methods=["POST"]),
        Route("/v1/completions", answered(COMPLETIONS), methods=["POST"]),
        Route("/v1/embeddings", posted(EmbeddingBody, embed), methods=["POST"]),
        Route("/tokenize", posted(TokenizeBody, tokenize), methods=["POST"]),
        Route("/detokenize", posted(DetokenizeBody, detokenize), methods=["POST"]),
        Route("/v1/models", info.models),
        Route("/v1/models/{model:path}", info.model),
        Route("/health", info.health),
        Route("/ready", info.ready),
        Route("/metrics", info.metrics_page),
        Route("/openapi.json", info.openapi),
        *(more := further(parts)),
    ]
    info.further = [each.described for each in more if isinstance(each, DescribedRoute)]

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        with contextlib.closing(meter):
            async with readiness.warming() if options.warm_up else contextlib.nullcontext():
                yield

    return Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[
            Middleware(Trace, metrics=metrics, paths=[route.path for route in routes]),
            *_for_pages(options.origins),
            Middleware(Authentication, options=options),
        ],
        exception_handlers={HTTPException: _on_http, NearfarError: _on_ours},
    )


def _for_pages(origins: Sequence[str]) -> list[Middleware]:
    """Return what lets pages of these origins in a browser ask, and read who answered."""
    if not origins:
        return []
    shown = ["x-request-id", "x-nearfar-served-by", "x-nearfar-reason", "x-nearfar-dropped-tokens"]
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=[*shown, "retry-after"],
        )
    ]


class _InfoRoutes:
    """Routes besides answers: models, health, readiness, metrics, OpenAPI."""

    def __init__(
        self, engine: Engine, models: ByModel | None, metrics: Metrics, readiness: Readiness
    ) -> None:
        self._engine, self._models = engine, models
        self._metrics = metrics
        self._readiness = readiness
        self.further: Sequence[Described] = ()  # paths beside those that every server has
        self._created = int(time.time())

    async def models(self, _: Request) -> Response:
        names = model_names(self._engine, self._models)
        return _json(ModelList([self._row(name) for name in names]))

    async def model(self, request: Request) -> Response:
        return _json(self._row(request.path_params["model"]))

    def _row(self, name: str) -> ModelReply:
        engine, _ = engine_of(name, self._engine, self._models)
        return ModelReply(name, self._created, engine.card().max_model_len)

    async def health(self, _: Request) -> Response:
        chosen = self._engine.chosen() if isinstance(self._engine, Choosing) else None
        return _json({"status": "ok"} | ({"engine": chosen} if chosen else {}))

    async def ready(self, _: Request) -> Response:
        if (why := self._readiness.why_not()) is not None:
            return _json({"status": "not ready", "why": why}, status=503)
        return _json({"status": "ready"})

    async def metrics_page(self, _: Request) -> Response:
        return Response(self._metrics.page(), media_type=CONTENT_TYPE)

    async def openapi(self, _: Request) -> Response:
        try:
            release = version("nearfar")
        except PackageNotFoundError:  # run from its folder, not installed
            release = "0"
        return _json(document(release, self.further))


def _json(body: object, *, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status_code=status, media_type="application/json")


async def _on_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for nothing else"
    body = body_of(of_status(error.status_code))
    headers = dict(error.headers or {})
    return Response(
        body, status_code=error.status_code, headers=headers, media_type="application/json"
    )


async def _on_ours(_: Request, error: Exception) -> Response:
    return error_response(error)
