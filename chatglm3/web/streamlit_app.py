"""The Streamlit page as an ASGI app."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.middleware import Middleware
from streamlit import config as streamlit_config
from streamlit import logger as streamlit_logger
from streamlit.starlette import App

from chatglm3.web.browser import Browser
from chatglm3.web.run import PageServer
from chatglm3.web.users import Users

OPTIONS = {
    "browser.gatherUsageStats": False,
    "client.showErrorDetails": "none",  # the log has them
    "client.toolbarMode": "minimal",
    "runner.magicEnabled": False,
    "server.enableStaticServing": False,
    "server.fileWatcherType": "none",
    "server.headless": True,
}
"""Streamlit's own options, whatever a file of this machine says."""


@dataclass(frozen=True)
class Site:
    """What the page shows, and to whom."""

    users: Users
    accounts: Mapping[str, str]
    """Passwords by name; empty: everybody may use the page, and a cookie tells browsers apart."""


_site: Site | None = None  # Streamlit runs its script by path and gives it nothing


def create_app(users: Users, *, accounts: Mapping[str, str], only_loopback: bool) -> App:
    """The page; a process can serve one. For `only_loopback`, see Browser."""
    publish(Site(users, accounts))
    for name, value in OPTIONS.items():
        streamlit_config.set_option(name, value)
    streamlit_logger.set_log_level("warning")
    script = Path(__file__).with_name("streamlit_script.py")
    return App(script, middleware=[Middleware(Browser, only_loopback=only_loopback)])


def serve_page(
    users: Users, bound: socket.socket, *, accounts: Mapping[str, str], only_loopback: bool
) -> None:
    """Serve the page until SIGTERM or SIGINT."""
    app = create_app(users, accounts=accounts, only_loopback=only_loopback)
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",  # below it stand two lines for every tab
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    PageServer(config).run(sockets=[bound])


def publish(site: Site) -> None:
    """Say what the script draws from now on."""
    global _site  # noqa: PLW0603
    _site = site


def site() -> Site:
    """What the script draws."""
    assert _site is not None, "create_app comes first"
    return _site
