"""The page as an ASGI app, in its two languages."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported

import gradio as gr
from fastapi import FastAPI, Request
from starlette.responses import RedirectResponse

from chatglm3.web.browser import Browser
from chatglm3.web.page import Page, theme
from chatglm3.web.texts import LANGUAGES
from chatglm3.web.users import Users

_HERE = Path(__file__).parent
_LARGEST_UPLOAD = "100mb"


def create_page(
    users: Users, folder: Path, *, accounts: Mapping[str, str] | None = None, only_loopback: bool = True
) -> FastAPI:
    """The page.

    folder: for pictures and files on their way to the browser.
    accounts: passwords by name; None: everybody may use the page, and a cookie tells browsers apart.
    only_loopback: see Browser.
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
    app.add_middleware(Browser, only_loopback=only_loopback)
    return app


def _language(request: Request) -> str:
    chosen = request.cookies.get("chatglm3_language")
    if chosen in LANGUAGES:
        return chosen
    return "zh" if request.headers.get("accept-language", "").lower().startswith("zh") else "en"


def _is_right(accounts: Mapping[str, str], name: str, password: str) -> bool:
    known = accounts.get(name, "")
    return secrets.compare_digest(known.encode(), password.encode()) and bool(known)
