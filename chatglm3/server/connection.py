"""One connection of a client: uvicorn's HTTP/1.1 with our patience and our words."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from chatglm3.server.errors import ApiError
from chatglm3.server.settings import Settings


class Connection(H11Protocol):
    """Headers are waited for no longer than bodies are, and what is no HTTP gets an error like any other."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings: Settings = self.config.app.state.core.settings  # type: ignore[union-attr]
        self._patience = settings.body_timeout
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request."""
        super().connection_made(transport)
        self._late = self.loop.call_later(self._patience, self._too_late)

    def data_received(self, data: bytes) -> None:
        """Stop waiting when a request has all its headers; begin when one has some."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._wait_no_more()
        elif self._late is None:
            self._late = self.loop.call_later(self._patience, self._too_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._wait_no_more()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be read."""
        self._refuse(
            ApiError(400, "this is no HTTP request that can be read", code="invalid_http"), "Bad Request"
        )

    def _too_late(self) -> None:
        message = f"the request's headers were not complete within {self._patience:g} s"
        self._refuse(ApiError(408, message, code="headers_timeout"), "Request Timeout")

    def _refuse(self, error: ApiError, reason: str) -> None:
        """Answer without a request, in plain bytes: h11 may be in no state to."""
        if not self.transport.is_closing():
            body = bytes(error.response().body)
            head = f"HTTP/1.1 {error.status} {reason}\r\nContent-Type: application/json\r\n"
            head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            self.transport.write(head.encode() + body)
            self.transport.close()

    def _wait_no_more(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
