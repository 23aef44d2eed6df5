"""Times what a person waits for: `python -m tests.browser.measure`. The figures are in docs/web.md."""

from __future__ import annotations

import re
import statistics
import tempfile
import time
from pathlib import Path

from chatglm3 import ChatGLM3
from chatglm3.tools import Toolbox
from chatglm3.web import Api, Host, Store, Users
from chatglm3.web.run import serving
from tests.browser.conftest import LivePage, Tab, expect, open_chromium

RUNS = 5


def main() -> None:
    """Measure and print medians and extremes."""
    paints, usable, tokens = [], [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(ChatGLM3.load("nano", device="cpu"), "nano") as (url, key),
        open_chromium() as browser,
    ):
        users = Users(Host(Api(url, key), Toolbox("builtin")), Store(None))
        with LivePage(users, Path(folder)) as page:
            for _ in range(RUNS):
                context = browser.new_context()  # nothing is in its cache
                tab = Tab(context, page.url)
                started = time.perf_counter()
                tab.open()
                usable.append(time.perf_counter() - started)
                entries = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
                paints.append(tab.page.evaluate(entries) / 1000)
                tab.box.fill("Hello!")
                started = time.perf_counter()
                tab.box.press("Enter")
                expect(tab.answers.last).to_have_text(re.compile(r"\w"), timeout=60_000)
                tokens.append(time.perf_counter() - started)
                tab.wait()
                context.close()
    for name, seconds in (("first paint", paints), ("ready to type", usable), ("first token", tokens)):
        print(f"{name}: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")


if __name__ == "__main__":
    main()
