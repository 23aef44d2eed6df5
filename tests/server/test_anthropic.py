"""/v1/messages, through Anthropic's own client where it has a word for the request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic

from chatglm3 import ChatGLM3
from chatglm3.prompt import Message, ToolCall, render
from chatglm3.server import ApiKey, Settings
from tests.server.conftest import LiveServer
from tests.server.scripted import Script
from tests.tiny import write_tiny_checkpoint

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: Any = {"name": "get_weather", "description": "Weather of a city", "input_schema": SCHEMA}
DEFINITION = {"name": "get_weather", "description": "Weather of a city", "parameters": SCHEMA}
CALL = "get_weather\n ```python\ntool_call(city='Paris')\n```<|observation|>"
QUESTION: Any = [{"role": "user", "content": "Weather in Paris?"}]
GREEDY = {"temperature": 0}  # which the client no longer has a name for
BODY: dict[str, Any] = {"model": "tiny", "max_tokens": 200, "messages": QUESTION}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("messages") / "model", max_seq_len=1024)
    settings = Settings(model_names=("tiny",), api_keys=(ApiKey("right"),))
    with LiveServer(ChatGLM3.load(folder, device="cpu"), settings) as live:
        live.http.headers["x-api-key"] = "right"
        yield live


@pytest.fixture(scope="module")
def script(server: LiveServer) -> Script:
    return Script(server.glm)


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[Anthropic]:
    with Anthropic(base_url=server.url, api_key="right", max_retries=0) as client:
        yield client


def events(server: LiveServer, **fields: Any) -> list[dict[str, Any]]:
    """The events of a stream; each carries its type twice."""
    response = server.http.post("/v1/messages", json=BODY | fields | {"stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for text in response.text.removesuffix("\n\n").split("\n\n"):
        name, data = text.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def refused(server: LiveServer, status: int, path: str = "/v1/messages", **fields: Any) -> dict[str, Any]:
    response = server.http.post(path, json=BODY | fields)
    assert response.status_code == status, response.text
    body = response.json()
    assert body["type"] == "error"
    assert body["request_id"] == response.headers["x-request-id"]
    return body["error"]


def test_an_answer_and_its_usage(client: Anthropic, script: Script) -> None:
    script.say("\n Sunny, 20 degrees.")
    answer = client.messages.create(**BODY, system="Be brief.")
    (block,) = answer.content
    assert (block.type, block.text) == ("text", "Sunny, 20 degrees.")
    assert (answer.role, answer.model, answer.stop_reason) == ("assistant", "tiny", "end_turn")
    usage = answer.usage
    counted = client.messages.count_tokens(model="tiny", messages=QUESTION, system="Be brief.")
    cached = usage.cache_read_input_tokens or 0
    assert usage.input_tokens + cached == counted.input_tokens
    assert usage.output_tokens > 5


def test_the_prompt_is_rendered_in_chatglm3s_format(server: LiveServer) -> None:
    uses = [
        {"type": "tool_use", "id": f"toolu_{i}", "name": "get_weather", "input": {"city": city}}
        for i, city in enumerate(["Paris", "北京"])
    ]
    results = [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": "no such city", "is_error": True},
        {"type": "tool_result", "tool_use_id": "toolu_0", "content": [{"type": "text", "text": "20"}]},
        {"type": "text", "text": "And?", "cache_control": {"type": "ephemeral"}},
    ]
    messages = [
        *QUESTION,
        {"role": "assistant", "content": [{"type": "text", "text": "Let me look."}, *uses]},
        {"role": "user", "content": results},
    ]
    system = [{"type": "text", "text": "Be brief."}]
    fields = {"model": "tiny", "messages": messages, "system": system, "tools": [TOOL]}
    response = server.http.post("/v1/messages/count_tokens", json=fields)
    expected = [
        Message("system", "Be brief.", tools=[DEFINITION]),
        Message("user", "Weather in Paris?"),
        Message("assistant", "Let me look."),
        Message.call(ToolCall("get_weather", {"city": "Paris"})),
        Message("observation", "20"),
        Message.call(ToolCall("get_weather", {"city": "北京"})),
        Message("observation", "Error: no such city"),
        Message("user", "And?"),
    ]
    assert response.json() == {"input_tokens": len(render(expected, server.glm.tokenizer).ids)}


def test_text_and_calls_whole_and_streamed(client: Anthropic, script: Script) -> None:
    two = CALL.removesuffix("<|observation|>").replace("Paris", "北京") + "<|assistant|>" + CALL
    reply = f"\n Let me look.<|assistant|>{two}"
    script.say(reply, reply)
    answer = client.messages.create(**BODY, tools=[TOOL])
    with client.messages.stream(**BODY, tools=[TOOL]) as stream:
        assert "".join(stream.text_stream) == "Let me look."
        streamed = stream.get_final_message()
    for message in (answer, streamed):
        assert message.stop_reason == "tool_use"
        assert [block.type for block in message.content] == ["text", "tool_use", "tool_use"]
        uses = [block for block in message.content if block.type == "tool_use"]
        assert [use.input for use in uses] == [{"city": "北京"}, {"city": "Paris"}]
        assert {use.name for use in uses} == {"get_weather"}
        assert len({use.id for use in uses}) == 2
    assert streamed.usage.output_tokens == answer.usage.output_tokens


def test_the_events_of_a_stream(server: LiveServer, script: Script) -> None:
    script.say(f"\n Look.<|assistant|>{CALL}")
    stream = events(server, tools=[TOOL])
    assert stream[0]["type"] == "message_start"
    assert stream[0]["message"]["content"] == []
    assert stream[0]["message"]["stop_reason"] is None
    assert [event["type"] for event in stream[-2:]] == ["message_delta", "message_stop"]
    assert stream[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    open_block, blocks = None, 0
    for event in stream[1:-2]:
        kind = event["type"].removeprefix("content_block_")
        assert event["index"] == blocks
        assert (kind == "start") == (open_block is None)
        if kind == "start":
            open_block = event["content_block"]["type"]
        elif kind == "delta":
            assert (
                event["delta"]["type"] == {"text": "text_delta", "tool_use": "input_json_delta"}[open_block]
            )
        else:
            open_block, blocks = None, blocks + 1
    assert (open_block, blocks) == (None, 2)


def test_stop_sequences(client: Anthropic, script: Script) -> None:
    script.say("\n one two three", "\n one two three")
    answer = client.messages.create(**BODY, stop_sequences=["three", "two"])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "two")
    assert answer.content[0].text == "one "  # type: ignore[union-attr]
    with client.messages.stream(**BODY, stop_sequences=["two"]) as stream:
        final = stream.get_final_message()
    assert (final.stop_reason, final.stop_sequence) == ("stop_sequence", "two")


def test_an_answer_cut_short_says_by_what(client: Anthropic) -> None:
    short = client.messages.create(**(BODY | {"max_tokens": 5}), extra_body=GREEDY)
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 5)
    long: Any = [{"role": "user", "content": "1 " * 480}]
    full = client.messages.create(model="tiny", max_tokens=10_000, messages=long, extra_body=GREEDY)
    if full.stop_reason != "end_turn":
        usage = full.usage
        assert full.stop_reason == "model_context_window_exceeded"
        assert usage.input_tokens + (usage.cache_read_input_tokens or 0) + usage.output_tokens == 1024


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_a_required_call_holds_on_random_weights(client: Anthropic, choice: Any) -> None:
    tool = TOOL | {
        "input_schema": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Oslo"]}},
            "required": ["city"],
            "additionalProperties": False,
        }
    }
    choice = choice | {"disable_parallel_tool_use": True}
    answer = client.messages.create(**BODY, tools=[tool], tool_choice=choice)
    (use,) = answer.content
    assert use.type == "tool_use"
    assert use.input in ({"city": "Paris"}, {"city": "Oslo"})


def test_with_a_choice_of_none_the_tools_are_not_shown(client: Anthropic, script: Script) -> None:
    shown = client.messages.count_tokens(model="tiny", messages=QUESTION, tools=[TOOL]).input_tokens
    none: Any = {"type": "none"}
    hidden = client.messages.count_tokens(model="tiny", messages=QUESTION, tools=[TOOL], tool_choice=none)
    assert hidden == client.messages.count_tokens(model="tiny", messages=QUESTION)
    assert hidden.input_tokens < shown


def test_an_answer_in_json(client: Anthropic) -> None:
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": ["good", "bad"]}},
        "required": ["mood"],
        "additionalProperties": False,
    }
    config: Any = {"format": {"type": "json_schema", "schema": schema}}
    answer = client.messages.create(**BODY, output_config=config)
    assert json.loads(answer.content[0].text)["mood"] in ("good", "bad")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": None}, "max_tokens"),
        ({"temperature": 1.5}, "temperature"),
        ({"seed": 1}, "no field 'seed'"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages.0"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "content.0"),
        ({"messages": [*QUESTION, {"role": "assistant", "content": "It is"}]}, "ends with a message from"),
        ({"tools": [{"type": "web_search_20260101", "name": "web_search"}]}, "tools.0"),
        ({"tools": [TOOL, TOOL]}, "same name"),
        ({"tool_choice": {"type": "any"}}, "no tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "other"}}, "'other'"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"messages": [{"role": "user", "content": "1 " * 3000}]}, "1024"),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    server: LiveServer, fields: dict[str, Any], complaint: str
) -> None:
    error = refused(server, 400, **fields)
    assert error["type"] == "invalid_request_error"
    assert complaint in error["message"]


def test_a_call_without_its_result_is_refused(server: LiveServer) -> None:
    use = {"type": "tool_use", "id": "toolu_0", "name": "get_weather", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "20"}
    turn = {"role": "assistant", "content": [use]}
    for answer, complaint in [
        ("thanks", "toolu_0"),
        ([result], "toolu_1"),
        ([{"type": "text", "text": "Here:"}, result], "come before"),
    ]:
        messages = [*QUESTION, turn, {"role": "user", "content": answer}]
        assert complaint in refused(server, 400, messages=messages)["message"]


def test_errors_are_those_of_anthropics_client(server: LiveServer, client: Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(**(BODY | {"model": "other"}))
    with (
        Anthropic(base_url=server.url, api_key="wrong", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError),
    ):
        stranger.messages.create(**BODY)
    assert refused(server, 404, path="/v1/messages/batches")["type"] == "not_found_error"
    response = server.http.post("/v1/messages", content=b'{"model": ')
    assert response.json()["error"]["type"] == "invalid_request_error"
