"""The Streamlit page as an ASGI app."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.middleware import Middleware
from streamlit import config
from streamlit.starlette import App

from chatglm3.web.browser import Browser
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
        config.set_option(name, value)
    script = Path(__file__).with_name("streamlit_script.py")
    return App(script, middleware=[Middleware(Browser, only_loopback=only_loopback)])


def publish(site: Site) -> None:
    """Say what the script draws from now on."""
    global _site  # noqa: PLW0603
    _site = site


def site() -> Site:
    """What the script draws."""
    assert _site is not None, "create_app comes first"
    return _site
