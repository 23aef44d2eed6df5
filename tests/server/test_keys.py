"""What a key may spend in a minute."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from chatglm3 import ChatGLM3
from chatglm3.errors import InvalidParameterError
from chatglm3.server import ApiKey, Settings
from chatglm3.server.errors import ApiError
from chatglm3.server.keys import Allowance
from tests.server.conftest import LiveServer
from tests.server.test_gate import BODY, bearer


class Clock:
    """Time that passes when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def refusal(allowance: Allowance) -> ApiError:
    with pytest.raises(ApiError) as caught:
        allowance.admit()
    return caught.value


def test_requests_come_back_evenly() -> None:
    clock = Clock()
    allowance = Allowance(ApiKey("sk", requests_per_minute=6), clock)
    for _ in range(6):
        allowance.admit()
    error = refusal(allowance)
    assert (error.status, error.code, error.headers) == (429, "rate_limit_exceeded", {"Retry-After": "10"})
    clock.now = 9.5
    assert refusal(allowance).headers["Retry-After"] == "1"
    clock.now = 10
    allowance.admit()
    refusal(allowance)
    clock.now = 10_000  # no more than a minute's worth is saved up
    for _ in range(6):
        allowance.admit()
    refusal(allowance)


def test_tokens_that_were_not_there_are_owed() -> None:
    clock = Clock()
    allowance = Allowance(ApiKey("sk", tokens_per_minute=60), clock)
    allowance.admit()
    allowance.spend(100)
    assert refusal(allowance).headers["Retry-After"] == "41"
    assert "60 tokens a minute" in str(refusal(allowance))
    clock.now = 41
    allowance.admit()


def test_a_key_without_limits_spends_what_it_likes() -> None:
    allowance = Allowance(ApiKey("sk"))
    for _ in range(1000):
        allowance.admit()
        allowance.spend(1000)


def test_limits_that_cannot_be_meant() -> None:
    with pytest.raises(InvalidParameterError, match="tokens_per_minute of an API key is 0"):
        ApiKey("sk", tokens_per_minute=0)
    with pytest.raises(InvalidParameterError, match="given twice"):
        Settings(api_keys=(ApiKey("sk"), ApiKey("sk", 5)))


@pytest.fixture(scope="module")
def limited(load_tiny: Callable[[], ChatGLM3]) -> Iterator[LiveServer]:
    short = [ApiKey(text, tokens_per_minute=50) for text in SPENDERS]
    keys = (ApiKey("few", requests_per_minute=3), ApiKey("free"), *short)
    with LiveServer(load_tiny(), Settings(model_names=("tiny",), api_keys=keys)) as live:
        yield live
        live.wait_until_idle()


def test_a_key_that_has_spent_its_requests_waits_and_the_others_do_not(limited: LiveServer) -> None:
    def status(key: str, path: str = "/v1/chat/completions") -> int:
        return limited.http.post(path, json=BODY, headers=bearer(key)).status_code

    assert [status("few") for _ in range(2)] == [200, 200]
    assert status("few", "/nowhere") == 404  # whatever is sent counts
    response = limited.http.post("/v1/chat/completions", json=BODY, headers=bearer("few"))
    assert response.status_code == 429
    assert 1 <= int(response.headers["Retry-After"]) <= 20
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert "3 requests a minute" in error["message"]
    anthropic = limited.http.post("/v1/messages", json=BODY, headers={"x-api-key": "few"}).json()
    assert anthropic["error"]["type"] == "rate_limit_error"
    assert status("free") == 200
    assert limited.http.get("/v1/models", headers=bearer("few")).status_code == 200  # costs nothing


LONG = BODY | {"max_tokens": 60, "temperature": 0}
SPENDERS = {
    "whole": ("/v1/chat/completions", LONG),
    "stream": ("/v1/chat/completions", LONG | {"stream": True}),
    "prompt": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "hello " * 60}], "max_tokens": 1},
    ),
    "embed": ("/v1/embeddings", {"input": "hello " * 60}),
}


@pytest.mark.parametrize("key", SPENDERS)
def test_prompts_and_answers_are_charged(limited: LiveServer, key: str) -> None:
    path, body = SPENDERS[key]
    responses = [limited.http.post(path, json=body, headers=bearer(key)) for _ in range(3)]
    assert responses[0].status_code == 200
    assert responses[-1].status_code == 429
    assert "50 tokens a minute" in responses[-1].json()["error"]["message"]
