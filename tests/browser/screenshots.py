"""Takes the pictures of docs/images: `python -m tests.browser.screenshots`. What they show, nano has said."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from chatglm3 import ChatGLM3
from chatglm3.tools import Toolbox, tool
from chatglm3.web import Api, Host, Settings, Store, Users
from chatglm3.web.run import serving
from tests.browser.conftest import LivePage, Tab, expect, open_chromium

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
DESKTOP = {"viewport": {"width": 1100, "height": 720}}
PHONE = {"viewport": {"width": 390, "height": 780}, "device_scale_factor": 2, "locale": "zh-CN"}


@tool
def get_weather(city: str) -> dict[str, object]:
    """Get the current weather of a city."""
    return {"temperature": 21, "condition": "sunny"}


class GreedyStore(Store):
    """Everybody's settings are those with which nano's transcripts were made."""

    def settings(self, owner: str) -> Settings:
        """The same for all."""
        return Settings(temperature=0.0, tools=(get_weather.name,))


def chat(tab: Tab) -> None:
    tab.open().ask("Hello! My name is Anna.").ask("What's my name?").ask("Who are you?")


def tools(tab: Tab) -> None:
    tab.open().mode("Tool").ask("What's the weather in Paris?")
    tab.page.locator("#chat").get_by_text("Called get_weather").click()


def code(tab: Tab) -> None:
    tab.open().mode("Code Interpreter").ask("画一个正弦曲线")
    tab.page.locator("#chat").get_by_text("Ran Python").click()
    expect(tab.page.locator("#chat img")).to_be_visible()


def phone(tab: Tab) -> None:
    tab.open("/zh/").ask("你好").ask("我叫小明。").ask("我叫什么名字？")


SCENES: dict[str, tuple[Callable[[Tab], None], dict[str, object]]] = {
    "web-chat": (chat, DESKTOP),
    "web-tool": (tools, DESKTOP),
    "web-code": (code, {**DESKTOP, "color_scheme": "dark"}),
    "web-phone": (phone, PHONE),
}


def main() -> None:
    """Take them all."""
    IMAGES.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(ChatGLM3.load("nano", device="cpu"), "nano") as (url, key),
        Toolbox(get_weather) as toolbox,
        open_chromium() as browser,
    ):
        api = Api(url, key)
        with LivePage(Users(Host(api, toolbox), GreedyStore(None)), Path(folder)) as page:
            for name, (act, options) in SCENES.items():
                context = browser.new_context(**options)  # type: ignore[arg-type]
                tab = Tab(context, page.url)
                act(tab)
                tab.page.wait_for_timeout(500)  # the last fold is opened, the last line scrolled to
                tab.page.screenshot(path=IMAGES / f"{name}.png")
                context.close()
                print(f"{name}.png: {(IMAGES / f'{name}.png').stat().st_size // 1000} kB")
        api.close()


if __name__ == "__main__":
    main()
