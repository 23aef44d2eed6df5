from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatglm3.errors import InvalidMessageError
from chatglm3.prompt import Message, ToolCall, conversation
from chatglm3.prompt.calls import CallSyntaxError, read_call, write_call

# Calls in text

text = st.text(st.characters(codec="utf-8"), max_size=10)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
names = st.one_of(
    text, st.sampled_from(["city", "class", "ﬁ", "first-name", "天气", "a'b", "__debug__", "None", ""])
)


@given(st.dictionaries(names, values, max_size=4))
@example({"a": 'it\'s "so"\n```\n\\', "b": [None, True, {"k": -1.5e-9}], "from": 1})
@example({"q": "```"})
def test_a_call_survives_being_written_and_read(arguments: dict[str, Any]) -> None:
    call = ToolCall("weather", arguments)
    again = read_call("weather", write_call(call))
    assert again == call
    assert repr(again.arguments) == repr(arguments)  # 1 is not True, 1.0 is not 1


def test_of_a_repeated_key_the_last_value_holds() -> None:
    assert read_call("f", "tool_call(a={'k': 1, 'k': 2})").arguments == {"a": {"k": 2}}


def test_calls_are_written_as_the_model_was_trained() -> None:
    call = ToolCall("weather", {"city": "北京", "days": 3})
    assert Message.call(call) == Message(
        "assistant", "```python\ntool_call(city='北京', days=3)\n```", metadata="weather"
    )
    assert write_call(ToolCall("f", {"first-name": 1})) == "```python\n{'first-name': 1}\n```"


@pytest.mark.parametrize("value", [math.nan, math.inf, {1, 2}, b"x", "\ud83d", [10**5000]])
def test_arguments_that_are_not_json_are_refused(value: Any) -> None:
    with pytest.raises(InvalidMessageError, match="not a JSON object"):
        write_call(ToolCall("f", {"a": value}))


@pytest.mark.parametrize("name", ["", "  ", "a\nb", None])
def test_a_tool_has_a_name(name: Any) -> None:
    with pytest.raises(InvalidMessageError, match="one line of text"):
        ToolCall(name, {})


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "invalid syntax"),
        ("tool_call(a=", "never closed"),
        ("tool_call('x')", "'x' has no name"),
        ("tool_call(a=foo)", "foo is not a plain value"),
        ("tool_call(a=__import__('os').system('x'))", "not a plain value"),
        ("tool_call(a=[].__class__)", "not a plain value"),
        ("tool_call(a=(lambda: 1)())", "not a plain value"),
        ("tool_call(a=1 + 1)", "not a plain value"),
        ("tool_call(a=f'{x}')", "not a plain value"),
        ("tool_call(a={1})", "not a plain value"),
        ("tool_call(a=b'x')", "not a plain value"),
        ("tool_call(a=1j)", "not a plain value"),
        ("tool_call(a=1e999)", "not a plain value"),
        ("tool_call(a=-1e999)", "not a plain value"),
        ("tool_call(a=...)", "not a plain value"),
        ("tool_call(a='\\ud83d')", "not a plain value"),
        ("tool_call(a={1: 2})", "not a text key"),
        ("tool_call(a={**b})", "not a text key"),
        ("tool_call(a=1, a=2)", "a is repeated"),
        ("tool_call(**{'a': 1})", r"\*\* is not allowed"),
        ("exec(a=1)", "expected tool_call"),
        ("tool_call.f(a=1)", "expected tool_call"),
        ("tool_call(a=1)\ntool_call(a=2)", "invalid syntax"),
        ("'\0'", "null bytes"),
        ("tool_call(a=" + "9" * 5000 + ")", "digits"),
        ("tool_call(a=" + "[" * 5000 + ")", "nested"),
        ("tool_call(a=" + "-" * 100_000 + "1)", "nested|recursion|depth"),
        ("tool_call(a=" + "1-" * 100_000 + "1)", "nested|recursion|depth"),
    ],
)
def test_a_call_that_cannot_be_read_has_a_reason(source: str, reason: str) -> None:
    for content in (f"```python\n{source}\n```", source):
        with pytest.raises(CallSyntaxError, match=reason):
            read_call("f", content)


def test_other_ways_to_write_a_call() -> None:
    for source in (
        "f(a=[1, -2])",
        "{'a': (1, -2)}",
        "tool_call(a=[1, -2])",
        "tool_call(\n    a=[1,\n-2],\n)",
    ):
        assert read_call("f", f" ```python\n{source}\n```\n") == ToolCall("f", {"a": [1, -2]})


# OpenAI's notation


def call(id: str | None, name: str = "f", **arguments: Any) -> dict[str, Any]:
    item: dict[str, Any] = {
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(arguments)},
    }
    return item if id is None else {**item, "id": id}


CALLED = {"role": "assistant", "tool_calls": [call("a")]}


def test_parallel_calls_become_call_and_result_in_turn() -> None:
    items = [
        {
            "role": "developer",
            "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}],
        },
        {"role": "user", "content": "?", "name": "bob"},
        {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "audio": None,
            "tool_calls": [call("a", x=1), call("b", x=2)],
        },
        {"role": "tool", "tool_call_id": "b", "content": "two"},
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "one"}]},
        {"role": "assistant", "content": "done"},
    ]
    assert conversation(items) == [
        Message("system", "Be\nbrief."),
        Message("user", "?"),
        Message("assistant", "```python\ntool_call(x=1)\n```", metadata="f"),
        Message("observation", "one"),
        Message("assistant", "```python\ntool_call(x=2)\n```", metadata="f"),
        Message("observation", "two"),
        Message("assistant", "done"),
    ]


def test_a_thought_comes_before_its_call() -> None:
    items = [
        {"role": "assistant", "content": "Let me see.", "tool_calls": [call(None, x=1)]},
        {"role": "tool", "content": "one"},
    ]
    assert [m.content for m in conversation(items)][::2] == ["Let me see.", "one"]


def test_messages_and_chatglm_dicts_pass_through() -> None:
    message = Message("user", "hi")
    own = {"role": "assistant", "metadata": "f", "content": "```python\ntool_call()\n```"}
    assert conversation([message, own, {"role": "observation", "content": "1"}]) == [
        message,
        Message("assistant", own["content"], metadata="f"),
        Message("observation", "1"),
    ]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([{"role": "tool", "content": "1", "tool_call_id": "a"}], "message 0: .*'a'.*: none"),
        ([CALLED], "'a' of 'f' has no result"),
        ([CALLED, {"role": "user", "content": "x"}], "message 1: .*no result"),
        ([CALLED, {"role": "tool", "tool_call_id": "b", "content": ""}], "'b'.*: 'a'"),
        ([{"role": "assistant", "tool_calls": [call("a"), call("a")]}], "id of its own"),
        ([{"role": "assistant", "tool_calls": [call(None), call("a")]}], "id of its own"),
        ([{"role": "user", "content": "", "tool_calls": [call("a")]}], "only an assistant"),
        ([{"role": "assistant", "tool_calls": [{"id": "a"}]}], "needs a function"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}], "not JSON"),
        ([{"role": "assistant", "tool_calls": "f"}], "must be a list"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "reads text only"),
        ([{"role": "user", "content": {"a": 1}}], "must be text"),
        ([{"role": "assistant", "content": None}], "must be text"),
        (["hi"], "message 0: a message is a Message or a dict"),
        ([Message("user", "x"), {"role": "users", "content": "x"}], "message 1: unknown role 'users'"),
    ],
)
def test_what_cannot_be_converted_is_refused(items: list[Any], message: str) -> None:
    with pytest.raises(InvalidMessageError, match=message):
        conversation(items)


def test_arguments_that_are_no_object_are_refused() -> None:
    items = [
        {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "[1]"}}]},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
    ]
    with pytest.raises(InvalidMessageError, match="not a JSON object"):
        conversation(items)
