"""What every request passes before any of our code reads it, and every answer on its way out.

In this order: a request id, limits on headers, the API key, whether the server is about to end, what the key
may spend, the body's size and time. And one line in the log when all is over.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Iterable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatglm3.server.core import Core
from chatglm3.server.errors import ApiError, ClientGoneError, internal
from chatglm3.server.keys import Keyring, spend
from chatglm3.server.logs import REQUEST_ID

access = logging.getLogger("chatglm3.server.access")
log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)
_ALWAYS_OPEN = ("/health", "/health/ready")
_OPEN_WHILE_DRAINING = (*_ALWAYS_OPEN, "/metrics")

_MOST_DISCARDED = 64 * 2**20
"""Bytes of a body too large that are read and thrown away, so that the client gets to read the refusal."""


class Gate:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, core: Core) -> None:
        self.app = app
        self._core = core
        self._settings = core.settings
        self._keys = Keyring(core.settings.api_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        REQUEST_ID.set(request_id)
        record: dict[str, Any] = scope.setdefault("state", {}).setdefault("record", {})
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            self._check(scope, headers)
            body = await self._body(headers, receive)
            await self.app(scope, _replayed(body, receive), send_with_id)
        except ApiError as error:
            await error.response(scope["path"])(scope, receive, send_with_id)
        except ClientGoneError:
            status = status or 499
            self._core.metrics.cancelled()
        except Exception:
            log.exception("a request failed")
            if status == 0:
                await internal().response(scope["path"])(scope, receive, send_with_id)
        spend(scope, record.get("completion_tokens", 0))
        if status >= 400:
            self._core.metrics.rejected(status)
        access.info(
            "%s %s %s",
            scope["method"],
            scope["path"],
            status,
            extra={
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "milliseconds": round(1000 * (time.perf_counter() - started), 1),
                "client": scope["client"][0] if scope.get("client") else None,
                **record,
            },
        )

    def _check(self, scope: Scope, headers: Headers) -> None:
        """Raise ApiError for what needs no body to be refused; else the scope knows the key's allowance."""
        path = scope["path"]
        size = sum(len(name) + len(value) for name, value in headers.raw)
        limit = self._settings.max_header_bytes
        if size > limit:
            raise ApiError(
                431, f"the headers have {size} bytes, and {limit} are taken", code="headers_too_large"
            )
        allowance = self._keys.find(_key(headers))
        if self._keys and allowance is None and path not in _ALWAYS_OPEN:
            raise ApiError(
                401,
                "a valid API key is needed: Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if self._core.thread.draining and path not in _OPEN_WHILE_DRAINING:
            raise ApiError(
                503,
                "the server is shutting down; try another one, or this one again soon",
                code="shutdown",
                headers={"Retry-After": "5", "Connection": "close"},
            )
        if allowance is not None and scope["method"] == "POST":
            allowance.admit()
        scope["state"]["allowance"] = allowance

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body. Raises ApiError for one that is too large or too slow."""
        limit = self._settings.max_body_bytes
        declared = headers.get("content-length", "0")
        size = int(declared) if declared.isdigit() else 0
        asks_first = headers.get("expect", "").lower() == "100-continue"
        if size > limit and (asks_first or size > _MOST_DISCARDED):
            raise _too_large(limit)
        chunks: list[bytes] = []
        length = 0
        try:
            async with asyncio.timeout(self._settings.body_timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    chunk = message.get("body", b"")
                    length += len(chunk)
                    if length <= limit:
                        chunks.append(chunk)
                    else:
                        chunks.clear()
                    if not message.get("more_body", False) or length > _MOST_DISCARDED:
                        break
        except TimeoutError:
            seconds = self._settings.body_timeout
            raise ApiError(
                408,
                f"the request was not complete within {seconds:g} s",
                code="body_timeout",
                headers={"Connection": "close"},
            ) from None
        if length > limit:
            raise _too_large(limit)
        return b"".join(chunks)


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413,
        f"the body is larger than the {limit} bytes that are taken",
        code="body_too_large",
        headers={"Connection": "close"},
    )


def _key(headers: Headers) -> str:
    """The key in `Authorization: Bearer KEY`, or in `x-api-key: KEY` as Anthropic's clients send it."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body in one message, and then whatever the connection has to say."""
    messages: Iterable[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def replay() -> Message:
        return next(messages, None) or await receive()  # type: ignore[call-overload]

    return replay
