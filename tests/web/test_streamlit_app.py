"""The Streamlit page as an app: what it answers to browsers, and how Markdown is drawn."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import httpx
import pytest

pytest.importorskip("streamlit", reason="the Streamlit page needs chatglm3[streamlit]")
import uvicorn
from streamlit import config
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from chatglm3.web import Api, Host, Store, Users
from chatglm3.web.browser import COOKIE
from chatglm3.web.run import wait_until_started
from chatglm3.web.streamlit_app import create_app
from chatglm3.web.streamlit_drawing import markdown, plain


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of the page, on a real socket; no model is needed for what is asked here."""
    users = Users(Host(Api("http://127.0.0.1:9/v1")), Store(None))
    app = create_app(users, accounts={}, only_loopback=True)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until_started(server, thread)
    yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(timeout=20)
    users.close()


def test_nothing_is_told_to_streamlit_and_nothing_is_loaded_from_elsewhere(address: str) -> None:
    assert config.get_option("browser.gatherUsageStats") is False
    answer = httpx.get(f"http://{address}/", trust_env=False)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy


def test_a_browser_gets_a_cookie_of_its_own_once(address: str) -> None:
    with httpx.Client(base_url=f"http://{address}", trust_env=False) as browser:
        first = browser.get("/").headers["set-cookie"]
        assert first.startswith(f"{COOKIE}=")
        assert "HttpOnly; SameSite=Strict" in first
        assert COOKIE not in browser.get("/").headers.get("set-cookie", "")


def test_another_name_for_this_machine_is_refused(address: str) -> None:
    assert (
        httpx.get(f"http://{address}/", headers={"Host": "evil.example"}, trust_env=False).status_code == 421
    )


def test_a_page_from_elsewhere_cannot_open_the_socket(address: str) -> None:
    url = f"ws://{address}/_stcore/stream"
    with connect(url, origin=f"http://{address}", proxy=None):  # type: ignore[arg-type]
        pass
    for origin in ("http://evil.example", "http://localhost:1"):
        with pytest.raises(InvalidStatus):
            connect(url, origin=origin, proxy=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("written", "drawn"),
    [
        (r"so \(x^2\) is", "so $x^2$ is"),
        (r"\[ a + b \]", "\n$$\na + b\n$$\n"),
        ("$$a$$", "\n$$\na\n$$\n"),
        ("it is $x_1$ here", "it is $x_1$ here"),
        ("from $5 to $6", r"from \$5 to \$6"),
        (r"already \$5", r"already \$5"),
        (":red[alarm] at 10:30", r"\:red[alarm] at 10:30"),
        ("![](http://evil.example/?q=1)", r"\![](http://evil.example/?q=1)"),
        ("<b>1</b> < 2", r"\<b>1\</b> \< 2"),
        ("see http://a.example:80/b:c?d=1 and", "see http://a.example:80/b:c?d=1 and"),
        ("http://a![b](http://evil.example/c)", r"http://a\![b](http://evil.example/c)"),
        ("`$5 :red[x] <b>`", "`$5 :red[x] <b>`"),
        ("```sh\necho $HOME ![x]\n```\n$5", "```sh\necho $HOME ![x]\n```\n\\$5"),
        ("```\nunfinished $x", "```\nunfinished $x"),
    ],
)
def test_markdown_is_what_was_written_in_streamlits_dialect(written: str, drawn: str) -> None:
    assert markdown(written) == drawn


def test_labels_are_text() -> None:
    assert plain("*a* [b](c) get_it ￥5 你好") == r"\*a\* \[b\]\(c\) get\_it ￥5 你好"
