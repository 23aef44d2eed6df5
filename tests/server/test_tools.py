"""Tool calls in OpenAI's form, from what a model writes in ChatGLM3's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from chatglm3 import ChatGLM3
from chatglm3.prompt import Message, ToolCall, render
from chatglm3.server import Settings
from tests.server.conftest import LiveServer
from tests.server.scripted import Script
from tests.server.test_chat import chunks, joined, reason
from tests.tiny import write_tiny_checkpoint

WEATHER = {
    "name": "get_weather",
    "description": "Weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
STRICT = WEATHER | {"strict": True}
TOOLS = [{"type": "function", "function": WEATHER}]
QUESTION = [{"role": "user", "content": "Weather in Paris?"}]
CALL = "get_weather\n ```python\ntool_call(city='Paris', days=3)\n```<|observation|>"
ARGUMENTS = {"city": "Paris", "days": 3}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server of its own: its model is scripted, and has room for definitions of tools."""
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("tools") / "model", max_seq_len=2048)
    with LiveServer(ChatGLM3.load(folder, device="cpu"), Settings(model_names=("tiny",))) as live:
        yield live


@pytest.fixture(scope="module")
def script(server: LiveServer) -> Script:
    return Script(server.glm)


def ask(server: LiveServer, **fields: Any) -> dict[str, Any]:
    response = server.http.post("/v1/chat/completions", json={"messages": QUESTION, "tools": TOOLS} | fields)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]


def calls_of(stream: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The calls that the deltas of a stream make, put together as clients do it."""
    calls: list[dict[str, Any]] = []
    for chunk in stream:
        for delta in chunk["choices"][0]["delta"].get("tool_calls", []):
            if delta["index"] == len(calls):
                calls.append({"id": delta["id"], "type": delta["type"], "function": dict(delta["function"])})
            else:
                assert "id" not in delta
                calls[delta["index"]]["function"]["arguments"] += delta["function"]["arguments"]
    return calls


def streamed(server: LiveServer, **fields: Any) -> list[dict[str, Any]]:
    return chunks(server, **({"messages": QUESTION, "tools": TOOLS, "max_tokens": 200} | fields))


def test_a_call(server: LiveServer, script: Script) -> None:
    script.say(CALL, CALL)
    choice = ask(server)
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", "get_weather")
    assert call["id"].startswith("call_")
    assert json.loads(call["function"]["arguments"]) == ARGUMENTS

    stream = streamed(server)
    (call,) = calls_of(stream)
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == ARGUMENTS
    assert (joined(stream), reason(stream)) == ("", "tool_calls")


def test_text_and_several_calls_in_one_reply(server: LiveServer, script: Script) -> None:
    two = CALL.removesuffix("<|observation|>").replace("Paris", "北京") + "<|assistant|>" + CALL
    reply = f"\n Let me look.<|assistant|>{two}"
    script.say(reply, reply)
    choice = ask(server)
    assert choice["message"]["content"] == "Let me look."
    cities = [json.loads(c["function"]["arguments"])["city"] for c in choice["message"]["tool_calls"]]
    assert cities == ["北京", "Paris"]
    stream = streamed(server)
    assert joined(stream) == "Let me look."
    assert [json.loads(call["function"]["arguments"])["city"] for call in calls_of(stream)] == cities
    assert len({call["id"] for call in calls_of(stream)}) == 2


def test_without_parallel_calls_the_reply_ends_with_the_first(server: LiveServer, script: Script) -> None:
    reply = CALL.removesuffix("<|observation|>") + "<|assistant|>" + CALL
    script.say(reply, reply)
    choice = ask(server, parallel_tool_calls=False)
    assert len(choice["message"]["tool_calls"]) == 1
    assert choice["finish_reason"] == "tool_calls"
    stream = streamed(server, parallel_tool_calls=False)
    assert (len(calls_of(stream)), reason(stream)) == (1, "tool_calls")


@pytest.mark.parametrize("fields", [{"tools": None}, {"tool_choice": "none"}])
def test_without_tools_a_call_is_text(server: LiveServer, script: Script, fields: dict[str, Any]) -> None:
    script.say(CALL, CALL)
    choice = ask(server, **fields)
    written = CALL.removesuffix("<|observation|>")
    assert choice["message"]["content"] == written
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "stop"
    assert joined(streamed(server, **fields)) == written


def test_a_call_that_cannot_be_read_is_text(server: LiveServer, script: Script) -> None:
    reply = "get_weather\n ```python\ntool_call(city=open('x'))\n```<|observation|>"
    script.say(reply, reply)
    choice = ask(server)
    assert "open('x')" in choice["message"]["content"]
    assert (choice["finish_reason"], "tool_calls" in choice["message"]) == ("stop", False)
    stream = streamed(server)
    assert (joined(stream), calls_of(stream)) == (choice["message"]["content"], [])


def test_a_call_cut_short_ends_with_length(server: LiveServer, script: Script) -> None:
    script.say(CALL)
    choice = ask(server, max_tokens=8)
    assert (choice["finish_reason"], "tool_calls" in choice["message"]) == ("length", False)


def test_code_for_the_interpreter(server: LiveServer, script: Script) -> None:
    code = "interpreter\n ```python\nprint(1 + 1)\n```<|observation|>"
    script.say(code, code)
    tools = [{"type": "function", "function": {"name": "interpreter", "description": "Runs Python"}}]
    (call,) = ask(server, tools=tools)["message"]["tool_calls"]
    assert call["function"] == {"name": "interpreter", "arguments": '{"code": "print(1 + 1)"}'}
    assert ask(server)["message"]["content"] == code.removesuffix("<|observation|>")  # not offered


def test_a_stop_string_is_looked_for_in_text_and_not_in_calls(server: LiveServer, script: Script) -> None:
    script.say(CALL, f"\n Let me look at Paris.<|assistant|>{CALL}")
    assert ask(server, stop=["Paris"])["finish_reason"] == "tool_calls"
    choice = ask(server, stop=["Paris"])
    assert choice["message"]["content"] == "Let me look at "
    assert (choice["finish_reason"], "tool_calls" in choice["message"]) == ("stop", False)


def test_a_stop_string_of_space_ends_an_answer_at_once(server: LiveServer, script: Script) -> None:
    reply = "\n one" + "\n" * 20 + "two"
    script.say(reply, reply)
    response = server.http.post("/v1/chat/completions", json={"messages": QUESTION, "stop": "\n\n"}).json()
    assert response["choices"][0]["message"]["content"] == "one"
    assert response["usage"]["completion_tokens"] < 12
    assert joined(chunks(server, stop="\n\n")) == "one"


def test_the_history_is_rendered_in_chatglm3s_format(server: LiveServer) -> None:
    called = [
        {
            "id": f"call_{i}",
            "type": "function",
            "function": {"name": "get_weather", "arguments": json.dumps({"city": city})},
        }
        for i, city in enumerate(["Paris", "北京"])
    ]
    messages = [
        {"role": "system", "content": "Be brief."},
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": called, "refusal": None},
        {"role": "tool", "tool_call_id": "call_1", "content": "3"},
        {"role": "tool", "tool_call_id": "call_0", "content": [{"type": "text", "text": "20"}]},
    ]
    tokens = server.http.post("/tokenize", json={"messages": messages, "tools": TOOLS}).json()["tokens"]
    expected = [
        Message("system", "Be brief.", tools=[WEATHER]),
        Message("user", "Weather in Paris?"),
        Message.call(ToolCall("get_weather", {"city": "Paris"})),
        Message("observation", "20"),
        Message.call(ToolCall("get_weather", {"city": "北京"})),
        Message("observation", "3"),
    ]
    assert tokens == render(expected, server.glm.tokenizer).ids
    response = server.http.post(
        "/v1/chat/completions", json={"messages": messages, "tools": TOOLS, "max_tokens": 1}
    )
    assert response.json()["usage"]["prompt_tokens"] == len(tokens)


def test_the_older_form(server: LiveServer, script: Script) -> None:
    script.say(CALL, CALL)
    fields = {"tools": None, "functions": [WEATHER], "function_call": "auto"}
    choice = ask(server, **fields)
    assert choice["finish_reason"] == "function_call"
    called = choice["message"]["function_call"]
    assert (called["name"], json.loads(called["arguments"])) == ("get_weather", ARGUMENTS)
    stream = streamed(server, **fields)
    deltas = [c["choices"][0]["delta"].get("function_call", {}) for c in stream]
    assert "".join(delta.get("name", "") for delta in deltas) == "get_weather"
    assert json.loads("".join(delta.get("arguments", "") for delta in deltas)) == ARGUMENTS
    assert reason(stream) == "function_call"
    history = [
        *QUESTION,
        {"role": "assistant", "content": None, "function_call": called},
        {"role": "function", "name": "get_weather", "content": "20"},
    ]
    script.say("\n 20 degrees.")
    assert ask(server, messages=history, **fields)["message"]["content"] == "20 degrees."


@pytest.mark.parametrize(
    ("fields", "param", "complaint"),
    [
        ({"tools": [*TOOLS, *TOOLS]}, "tools", "same name"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name", "pattern"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", "'function'"),
        ({"functions": [WEATHER]}, "functions", "two forms"),
        (
            {
                "messages": [
                    *QUESTION,
                    {
                        "role": "assistant",
                        "content": None,
                        "function_call": {"name": "f", "arguments": "{}"},
                        "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}],
                    },
                    {"role": "tool", "tool_call_id": "a", "content": "1"},
                ]
            },
            "messages.1",
            "two forms",
        ),
        (
            {"tool_choice": {"type": "function", "function": {"name": "get_whether"}}},
            "tool_choice",
            "no such tool",
        ),
        (
            {"tools": None, "functions": [WEATHER], "function_call": {"name": "get_whether"}},
            "function_call",
            "no such tool",
        ),
        (
            {"messages": [*QUESTION, {"role": "tool", "tool_call_id": "x", "content": "1"}]},
            "messages",
            "tool_call_id 'x'",
        ),
    ],
)
def test_tools_that_cannot_be_honoured(
    server: LiveServer, fields: dict[str, Any], param: str, complaint: str
) -> None:
    response = server.http.post("/v1/chat/completions", json={"messages": QUESTION, "tools": TOOLS} | fields)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert complaint in response.json()["error"]["message"]
