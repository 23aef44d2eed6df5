"""The page with nano in this process, and a headless Chromium that looks at it."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chatglm3 import ChatGLM3
from chatglm3.server import Settings as ServerSettings
from chatglm3.server.run import bind
from chatglm3.tools import Toolbox, tool
from chatglm3.web import Api, Host, Store, Users
from chatglm3.web.run import page_server, wait_until_started
from tests.server.conftest import LiveServer
from tests.server.scripted import Script

pytest.importorskip("playwright", reason="the browser tests need playwright: pip install playwright")
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

NANO = Path(__file__).resolve().parents[2] / "chatglm3" / "models" / "nano"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SECONDS = 60.0
expect.set_options(timeout=SECONDS * 1000)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/browser" in str(item.path):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="package")
def model() -> Iterator[LiveServer]:
    """nano behind its server, in this process."""
    if not NANO.is_dir():
        pytest.skip("the embedded model is not in this checkout")
    glm = ChatGLM3.load("nano", device="cpu")
    with LiveServer(glm, ServerSettings(model_names=("nano",))) as live:
        yield live


@pytest.fixture(scope="package")
def scripted(model: LiveServer) -> Script:
    return Script(model.glm)


@pytest.fixture
def script(scripted: Script) -> Script:
    """Lets nano say what a test wants; without a line left it speaks for itself."""
    scripted.forget()
    return scripted


@tool
def get_weather(city: str) -> dict[str, object]:
    """Get the weather of a city."""
    return {"city": city, "celsius": 21}


@tool(needs_approval=True)
def delete_notes(name: str) -> str:
    """Delete notes by their name."""
    return f"{name} is gone"


class LivePage:
    """The page on a real socket."""

    def __init__(self, users: Users, folder: Path) -> None:
        self.users = users
        self._bound = bind("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._bound.getsockname()[1]}"
        self._server = page_server(users, folder, accounts={}, only_loopback=True)
        self._thread = threading.Thread(target=self._server.run, args=([self._bound],), daemon=True)

    def __enter__(self) -> LivePage:
        self._thread.start()
        wait_until_started(self._server, self._thread)
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=20)
        self.users.close()
        self._bound.close()


@contextlib.contextmanager
def page_over(url: str, folder: Path) -> Iterator[LivePage]:
    """A page that talks to the server at `url`."""
    with Toolbox(get_weather, delete_notes) as tools, contextlib.closing(Api(url)) as api:
        users = Users(Host(api, tools, own_mcp=True), Store(folder / "web.sqlite"))
        with LivePage(users, folder) as page:
            yield page


@pytest.fixture(scope="package")
def live(model: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivePage]:
    with page_over(f"{model.url}/v1", tmp_path_factory.mktemp("page")) as page:
        yield page


@contextlib.contextmanager
def open_chromium() -> Iterator[Browser]:
    """A headless Chromium of this system."""
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="package")  # no longer: Playwright keeps an event loop running in this thread
def chromium() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; on Debian: apt-get install chromium")
    with open_chromium() as browser:
        yield browser


class Tab:
    """A page in a browser, and what a person does there."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.url = url
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page: Page = context.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, path: str = "/en/") -> Tab:
        self.page.goto(self.url + path)
        expect(self.box).to_be_visible()
        expect(self.page.locator("#current textarea, #current input")).not_to_have_value("")
        return self

    @property
    def box(self) -> Any:
        return self.page.locator("#message textarea")

    @property
    def answers(self) -> Any:
        return self.page.locator("#chat .bot.message")

    def mode(self, name: str) -> Tab:
        self.page.locator("#mode label", has_text=name).click()
        return self

    def send(self, text: str) -> Tab:
        self.box.fill(text)
        self.box.press("Enter")
        return self

    def ask(self, text: str) -> Tab:
        """Send, and wait for the end of the answer."""
        asked = self.page.locator("#chat .user.message")
        before = asked.count()
        self.send(text)
        expect(asked).to_have_count(before + 1)
        return self.wait()

    def wait(self) -> Tab:
        """Wait until no answer is under way."""
        expect(self.page.locator("#message .stop-button")).to_have_count(0)
        return self


@pytest.fixture
def browse(chromium: Browser, live: LivePage) -> Iterator[Callable[..., Tab]]:
    """Opens tabs, each in a browser of its own; at the end nothing has asked another machine for anything."""
    contexts: list[BrowserContext] = []
    tabs: list[Tab] = []

    def open_tab(url: str = live.url, **options: Any) -> Tab:
        contexts.append(chromium.new_context(accept_downloads=True, **options))
        tabs.append(Tab(contexts[-1], url))
        return tabs[-1]

    yield open_tab
    for context in contexts:
        context.close()
    for tab in tabs:
        elsewhere = [u for u in tab.requests if not u.startswith((f"{tab.url}/", "data:", "blob:"))]
        assert elsewhere == []
        assert tab.errors == []


@pytest.fixture
def tab(browse: Callable[..., Tab], script: Script) -> Tab:
    return browse().open()


@pytest.fixture
def interpreter() -> None:
    """Where programs cannot be isolated, none is run."""
    from chatglm3.tools.interpreter import best_isolation

    if best_isolation() is None:
        pytest.skip("this machine cannot isolate a code interpreter")
