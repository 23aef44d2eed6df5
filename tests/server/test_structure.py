"""Guaranteed structure over HTTP, on random weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import jsonschema
import openai
import pytest
from pydantic import BaseModel, Field

from chatglm3 import ChatGLM3
from chatglm3.server import Settings
from tests.grammar.walk import closing_ids
from tests.server.conftest import LiveServer
from tests.tiny import write_tiny_checkpoint

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "maximum": 150}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER = {
    "name": "get_weather",
    "description": "The weather.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 5}, "unit": {"enum": ["C", "F"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
}
TIME = {"name": "get_time", "parameters": {"type": "object", "properties": {}}}
SCHEMA_FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Its context has room for the definitions of tools."""
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model", max_seq_len=2048)
    with LiveServer(ChatGLM3.load(folder, device="cpu"), Settings()) as live:
        yield live


def question(server: LiveServer, **fields: Any) -> dict[str, Any]:
    """Its answers are drawn to an end: by themselves, random weights go on and on."""
    return {
        "messages": [{"role": "user", "content": "hello"}],
        "logit_bias": {str(id): 5 for id in closing_ids(server.glm.tokenizer)},
        "temperature": 1,
        "top_p": 1,
        "max_tokens": 200,
    } | fields


def ask(server: LiveServer, **fields: Any) -> dict[str, Any]:
    response = server.http.post("/v1/chat/completions", json=question(server, **fields))
    assert response.status_code == 200, response.text
    return response.json()


def tools(*functions: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"type": "function", "function": function} for function in functions]


def ended(answer: dict[str, Any]) -> list[dict[str, Any]]:
    choices = [choice for choice in answer["choices"] if choice["finish_reason"] != "length"]
    assert choices, "no answer came to its end"
    return choices


def test_an_answer_fits_its_schema(server: LiveServer) -> None:
    for choice in ended(ask(server, response_format=SCHEMA_FORMAT, n=8, seed=1)):
        assert choice["finish_reason"] == "stop"
        jsonschema.validate(json.loads(choice["message"]["content"]), PERSON)


def test_any_json_object(server: LiveServer) -> None:
    for choice in ended(ask(server, response_format={"type": "json_object"}, n=8, seed=2)):
        assert isinstance(json.loads(choice["message"]["content"]), dict)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"tool_choice": "required"}, {"get_weather", "get_time"}),
        ({"tool_choice": {"type": "function", "function": {"name": "get_weather"}}}, {"get_weather"}),
    ],
)
def test_a_forced_call_fits_its_schema(server: LiveServer, fields: dict[str, Any], names: set[str]) -> None:
    called = set()
    for choice in ended(ask(server, tools=tools(WEATHER, TIME), n=16, seed=3, **fields)):
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] is None
        for call in choice["message"]["tool_calls"]:
            called.add(call["function"]["name"])
            schema = {"get_weather": WEATHER, "get_time": TIME}[call["function"]["name"]]["parameters"]
            jsonschema.validate(json.loads(call["function"]["arguments"]), schema)
    assert called == names


def test_one_call_where_one_is_wanted(server: LiveServer) -> None:
    fields = {"tools": tools(WEATHER), "tool_choice": "required", "parallel_tool_calls": False}
    for choice in ended(ask(server, n=8, seed=4, **fields)):
        assert len(choice["message"]["tool_calls"]) == 1


def test_the_older_form_of_a_forced_call(server: LiveServer) -> None:
    answer = ask(server, functions=[WEATHER], function_call={"name": "get_weather"}, n=8, seed=5)
    for choice in ended(answer):
        assert choice["finish_reason"] == "function_call"
        called = choice["message"]["function_call"]
        jsonschema.validate(json.loads(called["arguments"]), WEATHER["parameters"])


def test_strict_tools_are_called_by_their_schema_or_not_at_all(server: LiveServer) -> None:
    strict = tools(WEATHER | {"strict": True})
    for choice in ended(ask(server, tools=strict, n=16, seed=6)):
        for call in choice["message"].get("tool_calls", ()):
            jsonschema.validate(json.loads(call["function"]["arguments"]), WEATHER["parameters"])


def test_an_answer_or_a_call(server: LiveServer) -> None:
    answer = ask(server, tools=tools(WEATHER), response_format=SCHEMA_FORMAT, n=16, seed=7)
    for choice in ended(answer):
        assert bool(choice["message"]["content"]) != bool(choice["message"].get("tool_calls"))
        if choice["message"]["content"]:
            jsonschema.validate(json.loads(choice["message"]["content"]), PERSON)


def test_a_stream_brings_the_same(server: LiveServer) -> None:
    fields = {"response_format": SCHEMA_FORMAT, "seed": 1}
    whole = ask(server, **fields)["choices"][0]["message"]["content"]
    text = ""
    body = question(server, stream=True, **fields)
    with server.http.stream("POST", "/v1/chat/completions", json=body) as response:
        for line in response.iter_lines():
            data = line.removeprefix("data: ")
            if data.startswith("{"):
                text += json.loads(data)["choices"][0]["delta"].get("content", "")
    assert text == whole


class Person(BaseModel):
    name: Annotated[str, Field(max_length=5)]
    age: Annotated[int, Field(ge=0, le=150)]
    likes: Literal["tea", "coffee"] | None


def test_openais_client_parses_answers_and_calls(server: LiveServer) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    sent = question(server, model="nano", seed=1)
    answer = client.chat.completions.parse(response_format=Person, **sent).choices[0].message.parsed
    assert isinstance(answer, Person)
    called = client.chat.completions.parse(
        tools=[openai.pydantic_function_tool(Person, name="save")], tool_choice="required", **sent
    )
    for call in called.choices[0].message.tool_calls or ():
        assert isinstance(call.function.parsed_arguments, Person)


@pytest.mark.parametrize(
    ("fields", "param", "complaint"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}},
            "response_format",
            "cannot be guaranteed",
        ),
        (
            {
                "tools": tools(
                    {"name": "f", "parameters": {"type": "object", "patternProperties": {"a": {}}}}
                ),
                "tool_choice": "required",
            },
            "tools",
            "patternProperties",
        ),
    ],
)
def test_what_cannot_be_guaranteed_is_refused(
    server: LiveServer, fields: dict[str, Any], param: str, complaint: str
) -> None:
    response = server.http.post(
        "/v1/chat/completions", json={"messages": [{"role": "user", "content": "hello"}]} | fields
    )
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert complaint in response.json()["error"]["message"]
