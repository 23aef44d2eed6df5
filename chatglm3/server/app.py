"""The app: the routes of all dialects over one core, behind the gate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from chatglm3.chat import ChatGLM3
from chatglm3.server import metrics
from chatglm3.server.anthropic import messages
from chatglm3.server.core import Core
from chatglm3.server.errors import ApiError, ErrorBody, invalid
from chatglm3.server.gate import Gate
from chatglm3.server.openai import chat, completions, embeddings, models, responses
from chatglm3.server.sentences import SentenceModel
from chatglm3.server.settings import VERSION, Settings

DESCRIPTION = """\
ChatGLM3 behind OpenAI's API. Every field is honoured, or refused with status 400 and an error that names it.
Where the server has API keys, send one as `Authorization: Bearer KEY`.
"""

_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request is refused; `message` says why."},
    "5XX": {"model": ErrorBody, "description": "The server cannot answer."},
}


def create_app(
    glm: ChatGLM3, settings: Settings | None = None, sentences: SentenceModel | None = None
) -> FastAPI:
    """An app that serves a model; its engine belongs to the app from then on.

    sentences: another model that /v1/embeddings offers.
    """
    core = Core(glm, settings or Settings(), sentences)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        core.thread.start()
        yield
        await core.thread.stop()

    app = FastAPI(
        title="chatglm3",
        version=VERSION,
        description=DESCRIPTION,
        lifespan=lifespan,
        responses=_ERRORS,
        redoc_url=None,
    )
    app.state.core = core
    app.add_middleware(Gate, core=core)
    if core.settings.cors_origins:
        app.add_middleware(  # around the gate: browsers ask for permission without a key
            CORSMiddleware,
            allow_origins=core.settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    app.add_exception_handler(ApiError, _refusal)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    for module in (chat, responses, completions, embeddings, models, messages):
        app.include_router(module.routes(core))
    _add_operations(app, core)
    return app


def _add_operations(app: FastAPI, core: Core) -> None:
    @app.head("/health", include_in_schema=False)
    @app.get("/health", tags=["Operations"], summary="Is the process alive?")
    async def health() -> dict[str, str]:
        """200 as long as the engine runs, while draining too. Needs no API key."""
        if not core.thread.alive:
            raise ApiError(503, "the engine has stopped; restart the server", code="engine_dead")
        return {"status": "ok"}

    @app.head("/health/ready", include_in_schema=False)
    @app.get("/health/ready", tags=["Operations"], summary="Does it take requests?")
    async def ready() -> dict[str, str]:
        """503 while draining. Needs no API key."""
        if core.thread.draining or not core.thread.alive:
            raise ApiError(503, "the server takes no new requests", code="shutdown")
        return {"status": "ready"}

    @app.get("/metrics", tags=["Operations"], summary="Prometheus metrics", response_class=Response)
    async def prometheus() -> Response:
        """Counters, gauges and histograms in Prometheus' text format."""
        return Response(core.metrics.page(), media_type=metrics.CONTENT_TYPE)


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response(request.url.path)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return invalid(error.errors(), error.body).response(request.url.path)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own: no such route, no such method, a body that cannot be read."""
    assert isinstance(error, HTTPException)
    cause = error.__cause__
    message, code = str(error.detail), None
    if isinstance(cause, UnicodeDecodeError):
        message, code = f"the body is not UTF-8: {cause.reason} at byte {cause.start}", "invalid_json"
    elif isinstance(cause, RecursionError):
        message, code = "the body is nested too deeply", "invalid_json"
    elif isinstance(cause, ValueError):
        message, code = f"the body is not JSON that can be read: {cause}", "invalid_json"
    elif error.status_code == 404:
        message = f"there is no {request.method} {request.url.path} here; /docs lists what there is"
    elif error.status_code == 405:
        message = f"{request.url.path} does not take {request.method}; /docs lists what it takes"
    return ApiError(error.status_code, message, code=code, headers=error.headers).response(request.url.path)
