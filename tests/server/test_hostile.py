"""A body that is wrong throughout has a few complaints, not millions, which would take gigabytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest
from pydantic import BaseModel, ValidationError

from chatglm3.server.anthropic.schema import CountRequest, MessagesRequest
from chatglm3.server.openai.chat_schema import ChatRequest
from chatglm3.server.openai.completions import CompletionRequest
from chatglm3.server.openai.embeddings import EmbeddingRequest
from chatglm3.server.openai.models import DetokenizeRequest, TokenizeRequest
from chatglm3.server.openai.responses_schema import ResponseRequest
from tests.server.conftest import LiveServer

MANY = 5000
BAD: list[Any] = [None, -1, "\x00", {}, [], [-1], {"type": "text"}, {"role": "user"}]
Place: TypeAlias = Callable[[Any], Any]
"""Puts a value somewhere into a body."""

REQUESTS = [
    ChatRequest,
    CompletionRequest,
    CountRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    MessagesRequest,
    ResponseRequest,
    TokenizeRequest,
]


def lists_and_objects(
    schema: dict[str, Any], defs: dict[str, Any], put: Place
) -> Iterator[tuple[str, Place]]:
    """Every place of a body where a list or an object may stand."""
    if "$ref" in schema:
        schema = defs[schema["$ref"].rpartition("/")[2]]
    for choice in schema.get("anyOf", schema.get("oneOf", [])):
        yield from lists_and_objects(choice, defs, put)
    if schema.get("type") == "array":
        yield "list", put
        if isinstance(schema.get("items"), dict):
            yield from lists_and_objects(schema["items"], defs, lambda value: put([value]))
    if schema.get("type") == "object":
        yield "object", put
        properties = schema.get("properties", {})
        fixed = {name: field["const"] for name, field in properties.items() if "const" in field}
        for name, field in properties.items():
            yield from lists_and_objects(
                field,
                defs,
                lambda value, name=name: put(fixed | {name: value}),  # type: ignore[misc]
            )


def complaints(model: type[BaseModel], body: Any) -> int:
    try:
        model.model_validate(body)
    except ValidationError as error:
        return error.error_count()
    return 0


@pytest.mark.parametrize("model", REQUESTS)
def test_complaints_are_few(model: type[BaseModel]) -> None:
    schema = model.model_json_schema()
    places = list(lists_and_objects(schema, schema.get("$defs", {}), lambda value: value))
    assert {"list", "object"} >= {kind for kind, _ in places} != set()
    for kind, put in places:
        for bad in BAD:
            many = [bad] * MANY if kind == "list" else {str(i): bad for i in range(MANY)}
            assert complaints(model, put(many)) < 100, (str(put([bad]))[:200], kind)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/completions"])
def test_a_body_of_four_megabytes_of_nonsense(server: LiveServer, path: str) -> None:
    ones = b"[" + b"1," * 2_000_000 + b"1]"
    body = b'{"messages": %s, "model": "tiny", "max_tokens": 1}' % ones
    if path == "/v1/responses":
        body = b'{"input": %s}' % ones
    if path == "/v1/completions":
        body = b'{"prompt": ["a", %s]}' % ones
    response = server.http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert len(response.content) < 500


def test_conversations_of_countless_messages(server: LiveServer) -> None:
    messages = [{"role": "user", "content": ""}] * 100_000
    error = server.http.post("/v1/chat/completions", json={"messages": messages}).json()["error"]
    assert (error["param"], error["code"]) == ("messages", "invalid_value")
    assert "4096" in error["message"]
    response = server.http.post("/v1/chat/completions", json={"messages": messages[:4000]})
    assert response.json()["error"]["code"] == "context_length_exceeded"


def test_texts_and_ids_beyond_the_context(server: LiveServer) -> None:
    for path, body, param in (
        ("/v1/completions", {"prompt": ["hello " * 3000] * 100}, "prompt"),
        ("/v1/completions", {"prompt": [5] * 100_000}, "prompt"),
        ("/v1/embeddings", {"input": ["hello " * 3000] * 100}, "input"),
        ("/detokenize", {"tokens": [5] * 200_000}, "tokens"),
    ):
        response = server.http.post(path, json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param), path
    assert len(server.http.post("/detokenize", json={"tokens": [5] * 100_000}).json()["prompt"]) > 0
