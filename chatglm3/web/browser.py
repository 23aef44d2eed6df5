"""Who a browser is, and what it may ask and load: the same for every page that we serve."""

from __future__ import annotations

import re
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "chatglm3_browser"
"""A random text of a browser's own, under which its conversations are kept."""

_YEAR = 365 * 24 * 3600
_LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}

POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # Gradio's and Streamlit's own are inline
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "worker-src 'self' blob:",
        "frame-ancestors 'self'",
    ]
)
"""Nothing is loaded from elsewhere, neither by the page nor by what a model writes, such as a picture."""


class Browser:
    """Gives each browser a cookie of its own, and every answer the policy; refuses what other pages try.

    only_loopback: the address is this machine's own, so that a request for another host is a trick.
    """

    def __init__(self, app: ASGIApp, *, only_loopback: bool) -> None:
        self._app = app
        self._only_loopback = only_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        is_tricked = self._only_loopback and re.sub(r":\d+$", "", host) not in _LOOPBACK
        if scope["type"] == "websocket":
            # Browsers let any page open one to any server; what they do send is where the page is from.
            origin = headers.get("origin")
            if is_tricked or (origin is not None and origin.lower().partition("://")[2] != host):
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self._app(scope, receive, send)
            return
        if is_tricked:
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
