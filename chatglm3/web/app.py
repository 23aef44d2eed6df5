"""The page as an ASGI app: its two languages, who a browser is, and what a browser may load."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported

import gradio as gr
from fastapi import FastAPI, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatglm3.web.handlers import COOKIE
from chatglm3.web.page import Page, theme
from chatglm3.web.texts import LANGUAGES
from chatglm3.web.users import Users

_HERE = Path(__file__).parent
_YEAR = 365 * 24 * 3600
_LARGEST_UPLOAD = "100mb"
_LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}

POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # Gradio's own are inline
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "worker-src 'self' blob:",
        "frame-ancestors 'self'",
    ]
)
"""Nothing is loaded from elsewhere, neither by the page nor by what a model writes, such as a picture."""


def create_page(
    users: Users, folder: Path, *, accounts: Mapping[str, str] | None = None, only_loopback: bool = True
) -> FastAPI:
    """The page.

    folder: for pictures and files on their way to the browser.
    accounts: passwords by name; None: everybody may use the page, and a cookie tells browsers apart.
    only_loopback: the address is this machine's own, so that a request for another host is a trick.
    """
    app = FastAPI(title="chatglm3 web", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/")
    async def choose(request: Request) -> RedirectResponse:
        return RedirectResponse(f"{_language(request)}/?{request.url.query}".rstrip("?"))

    for code, texts in LANGUAGES.items():
        gr.mount_gradio_app(
            app,
            Page(users, texts, folder).blocks,
            f"/{code}",
            auth=None if not accounts else lambda name, password: _is_right(accounts, name, password),
            allowed_paths=[str(folder)],
            max_file_size=_LARGEST_UPLOAD,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            theme=theme(),
            css=(_HERE / "page.css").read_text(encoding="utf-8"),
            js=(_HERE / "page.js").read_text(encoding="utf-8"),
        )
    app.add_middleware(_Browser, only_loopback=only_loopback)
    return app


def _language(request: Request) -> str:
    chosen = request.cookies.get("chatglm3_language")
    if chosen in LANGUAGES:
        return chosen
    return "zh" if request.headers.get("accept-language", "").lower().startswith("zh") else "en"


def _is_right(accounts: Mapping[str, str], name: str, password: str) -> bool:
    known = accounts.get(name, "")
    return secrets.compare_digest(known.encode(), password.encode()) and bool(known)


class _Browser:
    """Gives each browser a cookie of its own, and every answer the policy."""

    def __init__(self, app: ASGIApp, *, only_loopback: bool) -> None:
        self._app = app
        self._only_loopback = only_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host = re.sub(r":\d+$", "", headers.get("host", "").lower())
        if self._only_loopback and host not in _LOOPBACK:
            text = (
                "this page is for this machine only; open it as http://127.0.0.1, or start it with --host\n"
            )
            await PlainTextResponse(text, status_code=421)(scope, receive, send)
            return
        known = re.fullmatch(r"[\w-]{43}", cookie_parser(headers.get("cookie", "")).get(COOKIE, ""))

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer.append("Content-Security-Policy", POLICY)
                answer.append("Referrer-Policy", "no-referrer")
                if not known:
                    made = f"{COOKIE}={secrets.token_urlsafe(32)}"
                    answer.append("Set-Cookie", f"{made}; Path=/; Max-Age={_YEAR}; HttpOnly; SameSite=Strict")
            await send(message)

        await self._app(scope, receive, send_with_headers)
