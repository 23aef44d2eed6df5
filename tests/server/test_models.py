"""/v1/models, /v1/embeddings, /tokenize, /detokenize, /metrics and the description of it all."""

from __future__ import annotations

import base64
import math
from array import array
from typing import Any

import pytest

from chatglm3.prompt import Message, render
from tests.server.conftest import LiveServer


def test_models(server: LiveServer) -> None:
    listed = server.http.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["tiny", "chatglm3-6b"]
    assert server.http.get("/v1/models/tiny").json() == listed["data"][0]
    assert listed["data"][0]["max_model_len"] == 512
    assert server.http.get("/v1/models/other/model").status_code == 404


def test_tokens_and_back(server: LiveServer) -> None:
    tokenizer = server.glm.tokenizer
    answer = server.http.post("/tokenize", json={"prompt": "你好 hello", "return_token_strs": True}).json()
    assert answer["tokens"] == [*tokenizer.prefix_ids, *tokenizer.encode("你好 hello")]
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    bare = server.http.post("/tokenize", json={"prompt": "你好 hello", "add_special_tokens": False}).json()
    assert bare["tokens"] == answer["tokens"][2:]
    text = server.http.post("/detokenize", json={"tokens": bare["tokens"]}).json()
    assert text == {"prompt": "你好 hello"}
    chat = server.http.post("/tokenize", json={"messages": [{"role": "user", "content": "hi"}]}).json()
    assert chat["tokens"] == render([Message("user", "hi")], tokenizer).ids


@pytest.mark.parametrize(
    ("path", "fields", "complaint"),
    [
        ("/tokenize", {}, "either prompt or messages"),
        ("/tokenize", {"prompt": "a", "messages": []}, "either prompt or messages"),
        ("/tokenize", {"prompt": "a", "tools": []}, "tools go with messages"),
        ("/detokenize", {"tokens": [10**6]}, "token 0 is 1000000"),
        ("/detokenize", {"tokens": [-1]}, "greater than or equal to 0"),
        ("/v1/embeddings", {"input": ""}, "at least 1"),
        ("/v1/embeddings", {"input": []}, "at least 1"),
        ("/v1/embeddings", {"input": [10**6]}, "1000000"),
        ("/v1/embeddings", {"input": "1 " * 600}, "512"),
        ("/v1/embeddings", {"input": "a", "dimensions": 5}, "48"),
        ("/v1/embeddings", {"input": "a", "encoding_format": "int8"}, "'float' or 'base64'"),
    ],
)
def test_what_cannot_be_honoured(
    server: LiveServer, path: str, fields: dict[str, Any], complaint: str
) -> None:
    response = server.http.post(path, json=fields)
    assert response.status_code == 400, response.text
    assert complaint in response.json()["error"]["message"]


def embed(server: LiveServer, **fields: Any) -> dict[str, Any]:
    response = server.http.post("/v1/embeddings", json=fields)
    assert response.status_code == 200, response.text
    return response.json()


def test_embeddings_are_unit_vectors_that_do_not_depend_on_their_company(server: LiveServer) -> None:
    texts = ["hello world", "你好", "how are you today? " * 15]
    together = embed(server, input=texts)
    assert [item["index"] for item in together["data"]] == [0, 1, 2]
    for text, item in zip(texts, together["data"]):
        alone = embed(server, input=text)["data"][0]["embedding"]
        assert item["embedding"] == pytest.approx(alone, abs=1e-6)
        assert math.fsum(x * x for x in alone) == pytest.approx(1, abs=1e-5)
        assert len(alone) == 48
    assert together["data"][0]["embedding"] != together["data"][1]["embedding"]
    ids = [server.glm.tokenizer.encode(text) for text in texts]
    assert embed(server, input=ids)["data"] == together["data"]
    count = sum(len(x) + 2 for x in ids)
    assert together["usage"] == {"prompt_tokens": count, "total_tokens": count}


def test_embeddings_in_base64(server: LiveServer) -> None:
    numbers = array(
        "f", base64.b64decode(embed(server, input="hi", encoding_format="base64")["data"][0]["embedding"])
    )
    assert list(numbers) == pytest.approx(embed(server, input="hi")["data"][0]["embedding"])


def test_metrics_count_what_was_done(server: LiveServer) -> None:
    def value(name: str) -> float:
        lines = server.http.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"chatglm3:{name}"))

    names = [
        "generation_tokens_total",
        "prompt_tokens_total",
        "time_to_first_token_seconds_count",
        "inter_token_latency_seconds_count",
        "request_rejected_total",
        "e2e_request_latency_seconds_count",
        'request_success_total{finished_reason="length"',
        "prefix_cache_queries_total",
    ]
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 7, "temperature": 0, "n": 2}
    assert server.http.post("/v1/chat/completions", json=body).status_code == 200
    server.wait_until_idle()
    before = {name: value(name) for name in names}
    assert server.http.post("/v1/chat/completions", json=body).status_code == 200
    assert server.http.post("/v1/chat/completions", json={}).status_code == 400
    server.wait_until_idle()
    assert [value(name) - before[name] for name in names] == [14, 10, 2, 12, 1, 1, 2, 20]
    assert value("num_requests_running") == value("num_requests_waiting") == value("kv_cache_usage_perc") == 0


def test_the_description_names_every_route_and_its_errors(server: LiveServer) -> None:
    description = server.http.get("/openapi.json").json()
    paths = {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/models",
        "/tokenize",
        "/detokenize",
    }
    assert paths | {"/health", "/health/ready", "/metrics"} <= set(description["paths"])
    for methods in description["paths"].values():
        for operation in methods.values():
            assert "422" not in operation["responses"]
            assert {"200", "4XX", "5XX"} <= set(operation["responses"])
            assert operation["summary"]
    assert "swagger" in server.http.get("/docs").text.lower()
