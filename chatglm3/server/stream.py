"""Answering for as long as the client listens."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from chatglm3.server.answers import Answers, Part
from chatglm3.server.errors import ApiError, ClientGoneError, internal

log = logging.getLogger(__name__)
T = TypeVar("T")


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled as soon as the client closes its connection.

    receive: of a request whose body has been read. Raises ClientGoneError.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def result(request: Request, work: Coroutine[Any, Any, T], timeout: float) -> T:
    """The result of `work`. Raises ApiError after `timeout` seconds, ClientGoneError."""
    try:
        async with asyncio.timeout(timeout):
            return await while_connected(request.receive, work)
    except TimeoutError:
        raise _too_slow(timeout) from None


async def complete(request: Request, answers: Answers, timeout: float) -> list[Part]:
    """All answers, whole. Raises ApiError after `timeout` seconds, ClientGoneError."""
    try:
        return await result(request, answers.complete(), timeout)
    finally:
        answers.close()


class EventStream(Response):
    """Server-sent events, as they come. An error in the middle is the last event.

    events: texts as `event()` makes them; closed when the client goes away.
    answers: what they are made of; closed in any case.
    timeout: seconds for all of it.
    write_error: an error as the dialect's event.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[str, None],
        answers: Answers,
        timeout: float,
        write_error: Callable[[ApiError], str] = lambda error: event(error.body()),
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._answers = answers
        self._timeout = timeout
        self._write_error = write_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all events, or until nobody listens. Raises ClientGoneError."""
        try:
            await while_connected(receive, self._send(send))
        finally:
            self._answers.close()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            # Around sending as well: a client that reads nothing must not stay for ever.
            async with asyncio.timeout(self._timeout), aclosing(self._events) as events:
                async for text in events:
                    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        except Exception as error:
            last = self._write_error(self._told(error))
            await send({"type": "http.response.body", "body": last.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _told(self, error: Exception) -> ApiError:
        if isinstance(error, TimeoutError):
            error = _too_slow(self._timeout)
        if not isinstance(error, ApiError):
            log.error("a stream failed", exc_info=error)
            error = internal()
        self._answers.record["error"] = error.code or error.status
        return error


def _too_slow(timeout: float) -> ApiError:
    return ApiError(504, f"the answer was not complete within {timeout:g} s", code="timeout")


def event(data: Any, name: str | None = None) -> str:
    """One server-sent event; data: JSON values, or a string that is sent as it is."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"event: {name}\ndata: {text}\n\n" if name else f"data: {text}\n\n"
