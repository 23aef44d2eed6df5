"""Serving an app until the operator ends it: what has begun is finished, what comes then is refused."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import ssl
import sys
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import uvicorn
from fastapi import FastAPI

from chatglm3.errors import InvalidParameterError
from chatglm3.server.connection import Connection
from chatglm3.server.core import Core
from chatglm3.server.errors import ApiError

log = logging.getLogger(__name__)

_SWITCH_INTERVAL = 0.0005
"""Seconds after which a thread lets another one run Python. Each write to a socket gives the interpreter away
and gets it back from the engine's thread only then: Python's 5 ms would add up to more than the answer."""

_LAST_WORDS = 5
"""Seconds for the last bytes to reach slow clients, once every answer is complete."""


def bind(host: str, port: int) -> socket.socket:
    """A socket with the address, which refuses connections until the server runs. Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise OSError(error.errno, f"{error.strerror} ({host}, port {port})") from None
    return bound


class Certificate(NamedTuple):
    """Two PEM files, with which the server speaks TLS."""

    file: str
    """The certificate, and those in between up to a known authority."""
    key_file: str

    def check(self) -> None:
        """Raise InvalidParameterError or OSError unless they can be used."""

        def no_password() -> str:
            raise InvalidParameterError(f"the key in {self.key_file} has a password; remove it")

        for path in self:
            Path(path).open("rb").close()  # ssl's own complaint has no name
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.file, self.key_file, no_password)
        except ssl.SSLError as error:
            raise InvalidParameterError(
                f"{self.file} and {self.key_file} are no certificate and its key in PEM form: {error.reason}"
            ) from None


def serve(app: FastAPI, bound: socket.socket, certificate: Certificate | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends it at once."""
    app.openapi()  # kept; made when it is first asked for, it would hold up the event loop for 200 ms
    # What has been loaded stays for good. Without this a full collection looks through all of it, PyTorch
    # included, which stops every thread for more than 100 ms.
    gc.collect()
    gc.freeze()
    Server(app, certificate=certificate).run(sockets=[bound])


class Server(uvicorn.Server):
    """uvicorn, but the first signal drains: the socket stays open, and requests are told with 503."""

    def __init__(self, app: FastAPI, *, port: int = 0, certificate: Certificate | None = None) -> None:
        self._core: Core = app.state.core
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        super().__init__(
            uvicorn.Config(
                app,
                port=port,
                ssl_certfile=certificate and certificate.file,
                ssl_keyfile=certificate and certificate.key_file,
                http=Connection,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                h11_max_incomplete_event_size=4 * self._core.settings.max_header_bytes,
                timeout_graceful_shutdown=_LAST_WORDS,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say where."""
        self._loop = asyncio.get_running_loop()
        sys.setswitchinterval(_SWITCH_INTERVAL)
        await super().startup(sockets)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        scheme = "https" if self.config.is_ssl else "http"
        url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        log.info("%s is served at %s/v1 (documentation: %s/docs)", self._core.model_name, url, url)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second ends."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self.drain)

    def drain(self) -> None:
        """Refuse new requests from now on, and end when the running ones are done; called twice, at once."""
        if self._draining is None:
            self._core.thread.draining = True
            self._draining = asyncio.ensure_future(self._drain())
        else:
            self._draining.cancel()
            self._end()

    async def _drain(self) -> None:
        seconds = self._core.settings.drain_timeout
        log.info("shutting down: running requests have %g s to end", seconds)
        try:
            async with asyncio.timeout(seconds):
                await self._core.thread.drained()
        except TimeoutError:
            log.warning("requests were still running after %g s", seconds)
        self._end()

    def _end(self) -> None:
        message = "the server was shut down before this answer was complete"
        self._core.thread.fail_all(ApiError(503, message, code="shutdown"))
        self.should_exit = True
