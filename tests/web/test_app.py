"""The page as an ASGI app, and the command that starts it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette import status
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

pytest.importorskip("gradio", reason="the page needs gradio: pip install 'chatglm3[web]'")

from chatglm3.cli import main
from chatglm3.web import Host, Store, Users
from chatglm3.web.app import create_page
from chatglm3.web.browser import COOKIE, POLICY
from tests.server.conftest import LiveServer

LOCAL = "http://127.0.0.1:7860"


@pytest.fixture(scope="module")
def users(host: Host) -> Iterator[Users]:
    users = Users(host, Store(None))
    yield users
    users.close()


@pytest.fixture(scope="module")
def page(users: Users, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], TestClient]]:
    app = create_page(users, tmp_path_factory.mktemp("page"))
    with TestClient(app, base_url=LOCAL):
        yield lambda: TestClient(app, base_url=LOCAL)


def test_a_browser_gets_a_cookie_of_its_own_and_keeps_it(page: Callable[[], TestClient]) -> None:
    first, second = page(), page()
    cookies = [client.get("/en/").headers["set-cookie"] for client in (first, second)]
    assert all("HttpOnly" in cookie and "SameSite=Strict" in cookie for cookie in cookies)
    assert cookies[0] != cookies[1]
    assert "set-cookie" not in first.get("/en/").headers
    forged = first.get("/en/", headers={"cookie": f"{COOKIE}=../../etc"})
    assert COOKIE in forged.headers["set-cookie"]


@pytest.mark.parametrize(
    ("headers", "path"),
    [
        ({"accept-language": "zh-CN,zh;q=0.9"}, "zh/"),
        ({"accept-language": "de"}, "en/"),
        ({"accept-language": "de", "cookie": "chatglm3_language=zh"}, "zh/"),
        ({"cookie": "chatglm3_language=//evil.example"}, "en/"),
    ],
)
def test_the_language_is_the_browsers_or_the_chosen_one(
    page: Callable[[], TestClient], headers: dict[str, str], path: str
) -> None:
    answer = page().get("/?c=1", headers=headers, follow_redirects=False)
    # relative, so that it holds behind a proxy that serves the page under a path
    assert (answer.status_code, answer.headers["location"]) == (307, f"{path}?c=1")


def test_nothing_may_come_from_elsewhere(page: Callable[[], TestClient]) -> None:
    answer = page().get("/en/")
    assert answer.headers["content-security-policy"] == POLICY
    assert "default-src 'self'" in POLICY
    assert not re.search(r"https?:", POLICY)
    config = answer.text
    assert not re.findall(r"<(?:script|link)[^>]+(?:src|href)=\"https?://", config)
    assert "fonts.googleapis" not in page().get("/en/theme.css").text


def test_a_local_page_answers_to_local_names_only(page: Callable[[], TestClient]) -> None:
    assert page().get("/en/", headers={"host": "evil.example"}).status_code == 421
    assert page().get("/en/", headers={"host": "localhost:7860"}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"origin": LOCAL}, status.WS_1000_NORMAL_CLOSURE),  # the page itself has none
        ({"origin": "http://evil.example"}, status.WS_1008_POLICY_VIOLATION),
        ({"origin": "http://evil.example", "host": "evil.example"}, status.WS_1008_POLICY_VIOLATION),
    ],
)
def test_a_page_from_elsewhere_cannot_open_a_socket(
    page: Callable[[], TestClient], headers: dict[str, str], code: int
) -> None:
    address = LOCAL.replace("http", "ws") + "/socket"
    with pytest.raises(WebSocketDisconnect) as refused, page().websocket_connect(address, headers=headers):
        pass
    assert refused.value.code == code


def test_accounts_are_asked_for(users: Users, tmp_path: Path) -> None:
    app = create_page(users, tmp_path, accounts={"ada": "secret"}, only_loopback=False)
    with TestClient(app, base_url="http://page.example") as client:
        assert client.get("/en/config").status_code == 401
        assert client.post("/en/login", data={"username": "ada", "password": "wrong"}).status_code == 400
        assert client.post("/en/login", data={"username": "nobody", "password": ""}).status_code != 200
        assert client.post("/en/login", data={"username": "ada", "password": "secret"}).status_code == 200
        assert client.get("/en/config").status_code == 200


def test_mistakes_on_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["web", "--auth", "ada"]) == 2
    assert "NAME:PASSWORD" in capsys.readouterr().err
    assert main(["web", "--port", "0", "--tools", "no_such_tool"]) == 1
    assert "no_such_tool" in capsys.readouterr().err


def test_the_command_serves_the_page_over_another_server(server: LiveServer, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chatglm3", "web", "--api", f"{server.url}/v1", "--port", "0"]
    flags = ["--data", str(tmp_path / "web.sqlite"), "--host", "0.0.0.0"]
    with subprocess.Popen(
        [*command, *flags], stderr=subprocess.PIPE, text=True, env=os.environ | {"CHATGLM3_WEB_AUTH": ""}
    ) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"the page is at http://0\.0\.0\.0:(\d+)", line):
                break
        try:
            assert found is not None, said
            assert "everybody who can reach 0.0.0.0" in "".join(said)
            assert "without encryption" in "".join(said)
            answer = server.http.get(f"http://127.0.0.1:{found[1]}/en/config")
            assert json.loads(answer.text)["title"] == "ChatGLM3"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
    assert process.returncode in (0, -signal.SIGTERM)
    assert not Path(tmp_path / "web.sqlite-journal").exists()
