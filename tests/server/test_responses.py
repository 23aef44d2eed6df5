"""/v1/responses, through OpenAI's own client where it has a word for the request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from openai import OpenAI
from pydantic import BaseModel

from chatglm3 import ChatGLM3
from chatglm3.prompt import Message, ToolCall, render
from chatglm3.server import Settings
from tests.server.conftest import LiveServer
from tests.server.scripted import Script
from tests.tiny import write_tiny_checkpoint

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather of a city",
    "parameters": SCHEMA,
    "strict": False,
}
DEFINITION = {"name": "get_weather", "description": "Weather of a city", "parameters": SCHEMA}
CALL = "get_weather\n ```python\ntool_call(city='Paris')\n```<|observation|>"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("responses") / "model", max_seq_len=1024)
    with LiveServer(ChatGLM3.load(folder, device="cpu"), Settings(model_names=("tiny",))) as live:
        yield live


@pytest.fixture(scope="module")
def script(server: LiveServer) -> Script:
    return Script(server.glm)


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def events(server: LiveServer, **fields: Any) -> list[dict[str, Any]]:
    """The events of a stream; each carries its type twice, and its number."""
    body = {"input": "hello", "max_output_tokens": 200} | fields | {"stream": True}
    response = server.http.post("/v1/responses", json=body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for number, text in enumerate(response.text.removesuffix("\n\n").split("\n\n")):
        name, data = text.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
        assert found[-1]["sequence_number"] == number
    return found


def without_ids(output: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in item.items() if key not in ("id", "call_id")} for item in output]


def test_an_answer_and_its_usage(client: OpenAI, server: LiveServer, script: Script) -> None:
    script.say("\n Hello to you.")
    answer = client.responses.create(
        model="tiny", input="hello", instructions="Be brief.", temperature=0.5, metadata={"team": "a"}
    )
    assert (answer.status, answer.output_text, answer.error) == ("completed", "Hello to you.", None)
    expected = render([Message("system", "Be brief."), Message("user", "hello")], server.glm.tokenizer).ids
    assert answer.usage is not None
    assert answer.usage.input_tokens == len(expected)
    assert answer.usage.total_tokens == len(expected) + answer.usage.output_tokens
    assert (answer.model, answer.instructions, answer.metadata) == ("tiny", "Be brief.", {"team": "a"})
    assert (answer.temperature, answer.top_p, answer.tool_choice, answer.store) == (0.5, 0.8, "auto", False)


def test_the_prompt_is_rendered_in_chatglm3s_format(client: OpenAI, server: LiveServer) -> None:
    calls = [
        {
            "type": "function_call",
            "call_id": f"call_{i}",
            "name": "get_weather",
            "arguments": json.dumps({"city": city}),
        }
        for i, city in enumerate(["Paris", "Oslo"])
    ]
    text = {"type": "output_text", "text": "Let me look.", "annotations": []}
    output = [{"type": "input_text", "text": "20"}]
    conversation: Any = [
        {"role": "developer", "content": "Answer in English."},
        {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {"type": "message", "id": "msg_0", "role": "assistant", "status": "completed", "content": [text]},
        *calls,
        {"type": "function_call_output", "call_id": "call_1", "output": "3"},
        {"type": "function_call_output", "call_id": "call_0", "output": output},
    ]
    answer = client.responses.create(
        model="tiny", instructions="Be brief.", input=conversation, tools=[TOOL], max_output_tokens=1
    )
    expected = [
        Message("system", "Be brief.\nAnswer in English.", tools=[DEFINITION]),
        Message("user", "Weather?"),
        Message("assistant", "Let me look."),
        Message.call(ToolCall("get_weather", {"city": "Paris"})),
        Message("observation", "20"),
        Message.call(ToolCall("get_weather", {"city": "Oslo"})),
        Message("observation", "3"),
    ]
    assert answer.usage is not None
    assert answer.usage.input_tokens == len(render(expected, server.glm.tokenizer).ids)


def test_text_and_calls_whole_and_streamed(client: OpenAI, script: Script) -> None:
    two = CALL.removesuffix("<|observation|>").replace("Paris", "北京") + "<|assistant|>" + CALL
    reply = f"\n Let me look.<|assistant|>{two}"
    script.say(reply, reply)
    answer = client.responses.create(model="tiny", input="Weather?", tools=[TOOL])
    with client.responses.stream(model="tiny", input="Weather?", tools=[TOOL]) as stream:
        streamed = stream.get_final_response()
    for response in (answer, streamed):
        assert response.output_text == "Let me look."
        assert [item.type for item in response.output] == ["message", "function_call", "function_call"]
        calls = [item for item in response.output if item.type == "function_call"]
        assert [json.loads(call.arguments) for call in calls] == [{"city": "北京"}, {"city": "Paris"}]
        assert len({call.call_id for call in calls}) == 2
        assert response.status == "completed"


def test_the_events_of_a_stream(server: LiveServer, script: Script) -> None:
    script.say(f"\n Look.<|assistant|>{CALL}")
    stream = events(server, tools=[TOOL])
    kinds = [event["type"].removeprefix("response.") for event in stream]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    rest = [kind for kind in kinds[4:] if kind != "output_text.delta"]
    assert rest == [
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert "".join(e["delta"] for e in stream if e["type"] == "response.output_text.delta") == "Look."
    done = [event["item"] for event in stream if event["type"] == "response.output_item.done"]
    assert stream[-1]["response"]["output"] == done
    assert stream[0]["response"]["output"] == []
    assert stream[0]["response"]["id"] == stream[-1]["response"]["id"]
    assert stream[-1]["response"]["usage"]["output_tokens"] > 5


def test_an_answer_cut_short_is_incomplete(client: OpenAI, server: LiveServer) -> None:
    answer = client.responses.create(model="tiny", input="hello", max_output_tokens=5, temperature=0)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    last = events(server, max_output_tokens=5, temperature=0)[-1]
    assert last["type"] == "response.incomplete"
    assert without_ids(last["response"]["output"]) == without_ids(answer.to_dict()["output"])  # type: ignore[arg-type]


def test_logprobs_are_of_the_text(server: LiveServer, script: Script) -> None:
    script.say("\n 20 degrees.", "\n 20 degrees.")
    fields: Any = {"include": ["message.output_text.logprobs"], "top_logprobs": 2, "temperature": 0}
    body = {"input": "hello", "max_output_tokens": 50} | fields
    (message,) = server.http.post("/v1/responses", json=body).json()["output"]
    (part,) = message["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in part["logprobs"]).decode() == part["text"]
    assert {len(entry["top_logprobs"]) for entry in part["logprobs"]} == {2}
    stream = events(server, **body)
    streamed = [e["logprobs"] for e in stream if e["type"] == "response.output_text.delta"]
    assert [entry["token"] for entries in streamed for entry in entries] == [
        entry["token"] for entry in part["logprobs"]
    ]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_weather"}])
def test_a_required_call_holds_on_random_weights(client: OpenAI, choice: Any) -> None:
    answer = client.responses.create(
        model="tiny", input="Weather?", tools=[TOOL], tool_choice=choice, parallel_tool_calls=False
    )
    (call,) = answer.output
    assert call.type == "function_call"
    assert json.loads(call.arguments) in ({"city": "Paris"}, {"city": "Oslo"})


class Mood(BaseModel):
    mood: Literal["good", "bad"]


def test_an_answer_in_json(client: OpenAI) -> None:
    answer = client.responses.parse(model="tiny", input="How are you?", text_format=Mood)
    assert answer.output_parsed is not None
    assert answer.output_parsed.mood in ("good", "bad")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input"),
        ({"input": [{"role": "assistant", "content": "x"}]}, "input"),
        (
            {"input": [{"role": "user", "content": "x"}, {"role": "system", "content": "y"}]},
            "input",
        ),
        ({"input": [{"type": "function_call_output", "call_id": "a", "output": "b"}]}, "input"),
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"seed": 1}, "seed"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"stream_options": {}}, "stream_options"),
        ({"max_output_tokens": 5000}, "input"),
    ],
)
def test_what_cannot_be_honoured_is_refused(server: LiveServer, fields: dict[str, Any], param: str) -> None:
    response = server.http.post("/v1/responses", json={"input": "hello"} | fields)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"].startswith(param)
