"""The crossing between event loop and engine: full queues, clients that leave, steps that fail, the end."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from chatglm3 import ChatGLM3
from chatglm3.engine.sampler import Sampled
from chatglm3.server import Settings
from tests.server.conftest import LiveServer
from tests.tiny import tiny_tokenizer

BODY: dict[str, Any] = {
    "messages": [{"role": "user", "content": "hello"}],
    "temperature": 0,
    "max_tokens": 5,
}
ENDLESS = {str(id): -100 for id in tiny_tokenizer().stop_ids}
LONG = BODY | {"max_tokens": 480, "stream": True, "logit_bias": ENDLESS}


@pytest.fixture
def own(load_tiny: Callable[[], ChatGLM3]) -> Iterator[Callable[..., LiveServer]]:
    """Starts servers that a test may mistreat."""
    servers: list[LiveServer] = []

    def start(**settings: Any) -> LiveServer:
        servers.append(LiveServer(load_tiny(), Settings(model_names=("tiny",), **settings)))
        return servers[-1].__enter__()

    yield start
    for server in servers:
        server.__exit__()


def hold(server: LiveServer, seconds: float) -> None:
    """Keep the engine's thread busy."""
    server.core.thread._commands.put(lambda: time.sleep(seconds))


def post(server: LiveServer, body: dict[str, Any]) -> httpx2.Response:
    return server.http.post("/v1/chat/completions", json=body)


def begun_stream(server: LiveServer, body: dict[str, Any]) -> socket.socket:
    """A connection on which a stream has begun."""
    data = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(data), data)
    )
    received = b""
    while received.count(b"data: ") < 5:
        received += connection.recv(65536)
    return connection


def test_a_full_queue_is_told_at_once_and_drains(own: Callable[..., LiveServer]) -> None:
    server = own(max_queue=4)
    assert post(server, BODY).status_code == 200
    hold(server, 1)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(server, BODY), range(8)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [429] * 4
    for answer in refused:
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert answer.json()["error"]["code"] == "queue_full"
        assert answer.elapsed.total_seconds() < 0.9
    assert post(server, BODY).status_code == 200
    error = post(server, BODY | {"n": 5}).json()["error"]
    assert (error["code"], error["param"]) == ("too_many_answers", "n")
    server.wait_until_idle()


def test_the_queue_is_bounded_by_tokens_as_well(own: Callable[..., LiveServer]) -> None:
    server = own(max_queue_tokens=100)
    body = BODY | {"messages": [{"role": "user", "content": "1 " * 100}]}
    assert post(server, body).status_code == 200  # more than 100, but the queue is empty
    hold(server, 1)
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: post(server, body), range(3)))
    assert sorted(answer.status_code for answer in answers) == [200, 429, 429]
    server.wait_until_idle()


@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_leaves_a_stream_is_cancelled(server: LiveServer, reset: bool) -> None:
    connection = begun_stream(server, LONG)
    assert server.core.thread.stats.running == 1
    steps = server.core.thread.stats.steps
    if reset:  # as the kernel does it for a process that was killed
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()
    server.wait_until_idle()
    assert server.core.thread.stats.steps - steps < 200  # of the 480 that it would have taken


def test_a_client_that_leaves_before_its_answer_is_cancelled(server: LiveServer) -> None:
    computed = server.core.thread.stats.computed_tokens
    with pytest.raises(httpx2.ReadTimeout), httpx2.Client(base_url=server.url, trust_env=False) as client:
        client.post("/v1/chat/completions", json=LONG | {"stream": False, "n": 64}, timeout=0.3)
    server.wait_until_idle()
    assert server.core.thread.stats.computed_tokens - computed < 64 * 480 / 2
    assert "request_cancelled_total" in server.http.get("/metrics").text


def test_a_client_that_leaves_the_queue_is_never_computed(server: LiveServer) -> None:
    computed = server.core.thread.stats.computed_tokens
    hold(server, 0.6)
    with pytest.raises(httpx2.ReadTimeout), httpx2.Client(base_url=server.url, trust_env=False) as client:
        client.post("/v1/chat/completions", json=LONG | {"stream": False}, timeout=0.2)
    time.sleep(0.6)
    server.wait_until_idle()
    assert server.core.thread.stats.computed_tokens == computed
    assert server.core.thread._queued == server.core.thread._queued_tokens == 0


def test_a_step_that_fails_ends_its_requests_and_not_the_server(
    own: Callable[..., LiveServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = own()
    expected = post(server, BODY).json()["choices"]
    run, failures = server.glm.engine._runner.run, [RuntimeError("out of memory"), RuntimeError("again")]

    def failing(batch: Any) -> Any:
        if failures:
            raise failures.pop()
        return run(batch)

    server.glm.engine._runner.run = failing  # type: ignore[method-assign]
    answer = post(server, BODY)
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert "out of memory" not in answer.text
    streamed = post(server, BODY | {"stream": True})
    assert '"type":"server_error"' in streamed.text
    assert "[DONE]" not in streamed.text
    assert post(server, BODY).json()["choices"] == expected
    assert server.http.get("/health").status_code == 200
    server.wait_until_idle()
    assert "out of memory" in caplog.text


def test_logits_that_are_no_numbers_are_an_error(own: Callable[..., LiveServer]) -> None:
    server = own()
    broken = [Sampled(None, None, "the logits are NaN")]
    server.glm.engine._sampler.sample = lambda logits, states: broken  # type: ignore[method-assign]
    answer = post(server, BODY)
    assert (answer.status_code, answer.json()["error"]["message"]) == (500, "the logits are NaN")
    server.wait_until_idle()


def test_jobs_run_between_steps_and_end_with_their_caller(server: LiveServer) -> None:
    thread = server.core.thread
    loop = thread._loop
    assert loop is not None
    slices: list[int] = []
    closed = threading.Event()

    def job(count: int) -> Iterator[None]:
        try:
            for number in range(count):
                assert threading.current_thread().name == "engine"
                slices.append(number)
                yield
        finally:
            closed.set()
        return "done"

    def failing() -> Iterator[None]:
        yield
        raise ValueError("no")

    def run(job: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(thread.between_steps(job), loop)

    assert run(job(3)).result(timeout=10) == "done"
    assert slices == [0, 1, 2]
    with pytest.raises(ValueError, match="no"):
        run(failing()).result(timeout=10)
    closed.clear()
    endless = run(job(10**9))
    assert post(server, BODY).status_code == 200  # beside it
    endless.cancel()
    assert closed.wait(timeout=10)


def drain(server: LiveServer) -> None:
    assert server.uvicorn._loop is not None
    server.uvicorn._loop.call_soon_threadsafe(server.uvicorn.drain)


def lines_of(connection: socket.socket) -> list[bytes]:
    received = b""
    while data := connection.recv(65536):
        received += data
    return received.splitlines()


def test_running_streams_end_properly_when_the_server_is_told_to_end(own: Callable[..., LiveServer]) -> None:
    server = own()
    connection = begun_stream(server, LONG | {"n": 32})  # which takes longer than what is asked meanwhile
    drain(server)
    time.sleep(0.2)
    assert server.http.get("/health").status_code == 200
    assert server.http.get("/health/ready").status_code == 503
    refused = post(server, BODY)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutdown")
    assert refused.headers["connection"] == "close"
    lines = lines_of(connection)
    assert b"data: [DONE]" in lines
    assert lines[-2] == b"0"  # the end of a chunked body
    server._thread.join(timeout=10)
    assert not server._thread.is_alive()


@pytest.mark.parametrize("twice", [False, True])
def test_what_takes_longer_than_the_limit_is_told(own: Callable[..., LiveServer], twice: bool) -> None:
    server = own(drain_timeout=60 if twice else 0.1)
    hold_on = LONG | {"n": 4}
    connection = begun_stream(server, hold_on)
    hold(server, 1)
    drain(server)
    if twice:
        drain(server)
    lines = lines_of(connection)
    assert any(b'"code":"shutdown"' in line for line in lines)
    assert b"data: [DONE]" not in lines
    server._thread.join(timeout=10)
    assert not server._thread.is_alive()
