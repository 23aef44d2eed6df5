"""What every request has to pass: keys, limits, bodies that are no requests; and what the log says of it."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from chatglm3 import ChatGLM3
from chatglm3.errors import InvalidParameterError
from chatglm3.server import ApiKey, Settings
from chatglm3.server.logs import REQUEST_ID, JsonLines, Text
from tests.server.conftest import LiveServer

BODY = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}


@pytest.fixture(scope="module")
def guarded(load_tiny: Callable[[], ChatGLM3]) -> Iterator[LiveServer]:
    """A server with keys and a short patience."""
    settings = Settings(
        model_names=("tiny",),
        api_keys=(ApiKey("sk-one"), ApiKey("sk-two")),
        body_timeout=0.3,
        request_timeout=0.8,
    )
    with LiveServer(load_tiny(), settings) as live:
        yield live
        live.wait_until_idle()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def raw(server: LiveServer, *pieces: bytes, wait: float = 10) -> bytes:
    """Send bytes on a socket of our own, and read until the server closes or `wait` seconds are over."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=wait) as connection:
        for piece in pieces:
            connection.sendall(piece)
        answer = b""
        try:
            while data := connection.recv(65536):
                answer += data
        except (TimeoutError, ConnectionResetError):
            pass
        return answer


def head(length: int, *more: str) -> bytes:
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        "Connection: close",
    ]
    return "\r\n".join([*lines, f"Content-Length: {length}", *more, "", ""]).encode()


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/docs", "/openapi.json", "/nowhere"])
def test_every_route_but_health_needs_a_key(guarded: LiveServer, path: str) -> None:
    for headers in ({}, bearer("sk-three"), bearer("sk-on"), bearer("sk-one2"), {"Authorization": "sk-one"}):
        response = guarded.http.get(path, headers=headers)
        assert response.status_code == 401, headers
        assert response.json()["error"]["code"] == "invalid_api_key"
    assert guarded.http.get(path, headers=bearer("sk-one")).status_code in (200, 404, 405)
    assert guarded.http.get(path, headers={"x-api-key": "sk-two"}).status_code in (200, 404, 405)


def test_health_needs_none(guarded: LiveServer) -> None:
    assert guarded.http.get("/health").json() == {"status": "ok"}
    assert guarded.http.get("/health/ready").json() == {"status": "ready"}


def test_keys_that_no_header_can_carry() -> None:
    for key in ("", " a", "schlüssel", "a\nb"):
        with pytest.raises(InvalidParameterError, match="API key"):
            ApiKey(key)


def test_request_ids(server: LiveServer) -> None:
    assert server.http.get("/health", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    for bad in ("", "a b", "x" * 65, "ä"):
        given = server.http.get("/nowhere", headers={b"x-request-id": bad.encode()}).headers["x-request-id"]
        assert given.startswith("req_")


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "no body"),
        (b"{", "not JSON"),
        (b'{"messages": [}', "not JSON"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b'{"messages": "\xc3"}', "not UTF-8"),
        (b"[" * 200_000, "too deeply"),
        (b'{"a":' * 100_000, "too deeply"),
        (b"[]", "JSON object"),
        (b"9" * 10_000, "digits"),
        (b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}', "temperature"),
        (b'{"messages": [{"role": "user", "content": "a"}], "temperature": 1e999}', "temperature"),
    ],
)
def test_bodies_that_are_no_requests(server: LiveServer, body: bytes, complaint: str) -> None:
    headers = {"Content-Type": "application/json"}
    response = server.http.post("/v1/chat/completions", content=body, headers=headers)
    assert response.status_code == 400
    assert complaint in response.json()["error"]["message"]
    assert server.http.get("/health").status_code == 200


def test_a_body_that_is_not_said_to_be_json(server: LiveServer) -> None:
    response = server.http.post("/v1/chat/completions", content=json.dumps(BODY))
    assert response.status_code == 400
    assert "Content-Type: application/json" in response.json()["error"]["message"]


def test_large_bodies(server: LiveServer) -> None:
    body = json.dumps(BODY | {"user": "x" * (10 * 2**20)}).encode()
    assert b" 413 " in raw(server, head(len(body)), body).splitlines()[0]
    chunk = b"%x\r\n%s\r\n" % (2**20, b"x" * 2**20)
    chunked = head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    assert b" 413 " in raw(server, chunked, *[chunk] * 10, b"0\r\n\r\n").splitlines()[0]
    asking = head(10**9, "Expect: 100-continue")
    assert b" 413 " in raw(server, asking).splitlines()[0]
    assert server.http.post("/v1/chat/completions", json=BODY).status_code == 200


def test_a_long_text_within_the_limit_is_too_long_for_the_model(server: LiveServer) -> None:
    body = BODY | {"messages": [{"role": "user", "content": "你好 " * 300_000}]}
    response = server.http.post("/v1/chat/completions", json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_large_headers(server: LiveServer) -> None:
    response = server.http.get("/v1/models", headers={"x-filler": "x" * 20_000})
    assert (response.status_code, response.json()["error"]["code"]) == (431, "headers_too_large")
    answer = raw(server, b"GET / HTTP/1.1\r\nx: " + b"x" * 200_000)
    assert b" 400 " in answer.splitlines()[0]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"


def test_half_a_body_is_not_waited_for(guarded: LiveServer) -> None:
    started = time.monotonic()
    answer = raw(guarded, head(100, "Authorization: Bearer sk-one"), b'{"messages": ')
    assert b" 408 " in answer.splitlines()[0]
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("pieces", [(), (b"GET /health HTT",), (b"GET /health HTTP/1.1\r\nHost: x\r\n",)])
def test_half_the_headers_are_not_waited_for(guarded: LiveServer, pieces: tuple[bytes, ...]) -> None:
    answer = raw(guarded, *pieces)
    assert b" 408 " in answer.splitlines()[0]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "headers_timeout"


def test_a_second_request_is_not_waited_for_either(guarded: LiveServer) -> None:
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b'{"status":"ok"}'):
            answer += connection.recv(65536)
        connection.sendall(b"GET /hea")
        rest = b""
        while data := connection.recv(65536):
            rest += data
    assert b" 408 " in rest.splitlines()[0]


def test_clients_that_leave_in_the_middle_of_a_request(server: LiveServer) -> None:
    for pieces in ([head(100)], [head(100), b"{"], [b"POST /v1"], [b"\x16\x03\x01garbage\r\n\r\n"], [b""]):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            for piece in pieces:
                connection.sendall(piece)
    assert server.http.post("/v1/chat/completions", json=BODY).status_code == 200


def test_an_answer_that_takes_too_long(guarded: LiveServer) -> None:
    for stream in (False, True):
        guarded.core.thread._commands.put(lambda: time.sleep(1.2))  # the engine's thread is held up
        response = guarded.http.post(
            "/v1/chat/completions", json=BODY | {"stream": stream}, headers=bearer("sk-one")
        )
        assert "not complete within 0.8 s" in response.text
        assert response.status_code == (200 if stream else 504)
        guarded.wait_until_idle()


def test_the_log_tells_who_what_and_how_long_but_not_the_prompt(
    server: LiveServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="chatglm3.server")
    body = BODY | {"user": "someone", "messages": [{"role": "user", "content": "hello SECRET"}]}
    server.http.post("/v1/chat/completions", json=body, headers={"x-request-id": "mine-2"})
    deadline = time.monotonic() + 5
    while not caplog.records and time.monotonic() < deadline:
        time.sleep(0.01)
    record = caplog.records[-1]
    assert (record.path, record.status, record.user) == ("/v1/chat/completions", 200, "someone")  # type: ignore[attr-defined]
    assert record.completion_tokens == 3  # type: ignore[attr-defined]
    assert record.milliseconds > 0  # type: ignore[attr-defined]
    token = REQUEST_ID.set("mine-2")
    line = json.loads(JsonLines().format(record))
    text = Text().format(record)
    REQUEST_ID.reset(token)
    assert (line["request_id"], line["status"], line["level"]) == ("mine-2", 200, "info")
    assert "POST /v1/chat/completions 200" in text
    assert "request_id=mine-2" in text
    assert "SECRET" not in json.dumps(line) + text


def test_prompts_are_logged_where_that_is_asked_for(
    load_tiny: Callable[[], ChatGLM3], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="chatglm3.server")
    with LiveServer(load_tiny(), Settings(model_names=("tiny",), log_prompts=True)) as live:
        live.http.post("/v1/chat/completions", json=BODY)
    assert any("'hello'" in JsonLines().format(record).replace('"', "'") for record in caplog.records)
