"""Starting the page, and the server that it talks to."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from chatglm3.errors import ServerError
from chatglm3.server import Settings, create_app
from chatglm3.server.keys import ApiKey
from chatglm3.server.run import Server, bind
from chatglm3.web.users import Users

if TYPE_CHECKING:
    from chatglm3.chat import ChatGLM3

log = logging.getLogger(__name__)

_START_SECONDS = 60.0


@contextlib.contextmanager
def serving(glm: ChatGLM3, name: str) -> Iterator[tuple[str, str]]:
    """A server of the model in a thread of this process: its URL and a key that only we know."""
    key = secrets.token_urlsafe(24)
    server = Server(create_app(glm, Settings(model_names=(name,), api_keys=(ApiKey(key),))))
    bound = bind("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=([bound],), name="chatglm3-server", daemon=True)
    thread.start()
    try:
        wait_until_started(server, thread)
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/v1", key
    finally:
        server.should_exit = True
        thread.join(timeout=_START_SECONDS)
        bound.close()


def wait_until_started(server: object, thread: threading.Thread) -> None:
    """Wait for a uvicorn server in a thread. Raises ServerError if it does not come up."""
    deadline = time.monotonic() + _START_SECONDS
    while not getattr(server, "started", False):
        if not thread.is_alive() or time.monotonic() > deadline:
            raise ServerError("the model's server did not start; see its log above")
        time.sleep(0.01)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return all(item[4][0] in ("::1",) or str(item[4][0]).startswith("127.") for item in found)


def serve_page(
    users: Users, bound: socket.socket, folder: Path, *, accounts: Mapping[str, str], only_loopback: bool
) -> None:
    """Serve the page until SIGTERM or SIGINT."""
    page_server(users, folder, accounts=accounts, only_loopback=only_loopback).run(sockets=[bound])


def page_server(
    users: Users, folder: Path, *, accounts: Mapping[str, str], only_loopback: bool
) -> uvicorn.Server:
    """A server of the page, which says where it is when it runs."""
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "browser")
    from chatglm3.web.app import create_page

    app = create_page(users, folder, accounts=accounts, only_loopback=only_loopback)
    return PageServer(
        uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=2
        )
    )


class PageServer(uvicorn.Server):
    """uvicorn, but it says where the page is."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say where."""
        await super().startup(sockets)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        log.info("the page is at http://%s:%d", f"[{host}]" if ":" in host else host, port)
