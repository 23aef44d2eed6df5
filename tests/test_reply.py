from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatglm3.prompt import (
    CallBegin,
    CallDelta,
    CallEnd,
    Event,
    Message,
    Reply,
    ReplyDecoder,
    ReplyParser,
    TextDelta,
    ToolCall,
    encode_message,
    parse_reply,
    published_answer,
    published_history,
)
from chatglm3.tokenizer import Tokenizer
from tests.tokenizers import tiny_tokenizer_file

TINY = Tokenizer(tiny_tokenizer_file())
TOOLS = ("weather", "text-to-speech", "get the time", "天气")
CALL = " ```python\ntool_call(city='Oslo')\n```"

# The published process_response


def published_content(reply: Reply, has_tools: bool) -> Any:
    """What the published chat() returns: the last message, as text or as a dict for a call."""
    last = published_history(reply)[-1]
    if reply.messages[-1].metadata and has_tools:
        return {"name": reply.tool_calls[-1].name, "parameters": reply.tool_calls[-1].arguments}
    if reply.messages[-1].metadata:
        return {"name": last["metadata"].strip(), "content": last["content"]}
    return published_answer(last["content"])


def test_published_response_cases(fixtures_dir: Path) -> None:
    files = sorted(fixtures_dir.glob("*/chat/process_response_cases.jsonl"))
    cases = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    exact = 0
    for case in cases:
        system = case["history"][0] if case["history"] else {}
        tools = [tool["name"] for tool in system.get("tools") or []]
        reply = parse_reply(case["output"], tools, interpreter="tools" not in system)
        assert reply.raw == case["output"].split("<|assistant|>"), case["id"]
        if "error" in case or reply.problems:
            # Where the published code evaluates and may raise, a call is read, or it is text with a reason.
            assert reply.tool_calls or reply.content.endswith(reply.raw[-1].strip()), case["id"]
            continue
        published = case["new_history"][len(case["history"]) :]
        if [message["metadata"].strip() for message in published] != [m.metadata for m in reply.messages]:
            # The published code takes any first line for the name of a tool; a sentence is not one.
            assert reply.content.endswith(reply.raw[-1].strip()), case["id"]
            continue
        assert published_history(reply) == published, case["id"]
        assert published_content(reply, "tools" in system) == case["content"], case["id"]
        exact += 1
    assert exact > len(cases) / 2


# What a reply says


def test_a_plain_answer() -> None:
    reply = parse_reply("\n 你好！\n\nBye. \n", TOOLS)
    assert reply.content == "你好！\n\nBye."
    assert reply.messages == [Message("assistant", "你好！\n\nBye.")]
    assert (reply.tool_calls, reply.code, reply.problems) == ([], None, [])


def test_a_thought_and_then_a_call() -> None:
    reply = parse_reply(f"\n Let me see.<|assistant|>weather\n{CALL}", TOOLS)
    assert reply.content == "Let me see."
    assert reply.tool_calls == [ToolCall("weather", {"city": "Oslo"})]
    assert reply.messages == [Message("assistant", "Let me see."), Message.call(reply.tool_calls[0])]


def test_several_texts_are_lines_of_the_content() -> None:
    assert parse_reply("\n A<|assistant|>\n<|assistant|>\n B").content == "A\nB"


@pytest.mark.parametrize(
    "output", ["Sure\n```python\nprint(1)\n```", "好的，以下是答案：\n1. 第一", "weather", "ok\n"]
)
def test_a_first_line_that_is_no_tool_is_text(output: str) -> None:
    reply = parse_reply(output, TOOLS)
    assert reply.content == output.strip()
    assert reply.messages == [Message("assistant", output.strip())]


def test_a_call_of_a_tool_that_was_not_offered_is_still_a_call() -> None:
    for tools in ((), ("weather",)):
        assert parse_reply(f"stocks\n{CALL}", tools).tool_calls == [ToolCall("stocks", {"city": "Oslo"})]


@pytest.mark.parametrize("name", TOOLS)
def test_names_on_offer_may_hold_anything(name: str) -> None:
    assert parse_reply(f" {name} \r\n{{'a': 1}}", TOOLS).tool_calls == [ToolCall(name, {"a": 1})]


def test_a_call_that_cannot_be_read_is_text_with_a_reason() -> None:
    output = "weather\n ```python\ntool_call(city=here)\n```"
    reply = parse_reply(f"\n Hm.<|assistant|>{output}", TOOLS)
    assert reply.content == "Hm.\n" + output
    assert reply.problems == ["the call to weather cannot be read: here is not a plain value"]
    assert reply.messages[1] == Message("assistant", output.partition("\n ")[2], metadata="weather")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (" ```python\nprint(1)\n```", "print(1)"),
        (" ```python\nif x:\n\n    print(1)", "if x:\n\n    print(1)"),
        ("Look:\n```python\nx = 1\n```\nand\n```py\nprint(x)\n```\nDone.", "x = 1\nprint(x)"),
        (" print(1)\nprint(2)\n", "print(1)\nprint(2)"),
        ("```python\nprint('```')```", "print('```')"),
        ("```python\n\n\nx\n\n```", "\n\nx\n"),
        ("", ""),
    ],
)
def test_code_for_the_interpreter(content: str, code: str) -> None:
    reply = parse_reply(f"interpreter\n{content}")
    assert reply.code == code
    assert reply.messages == [Message("assistant", content.strip(), metadata="interpreter")]


def test_without_an_interpreter_there_is_no_code() -> None:
    output = "interpreter\n ```python\nprint(1)\n```"
    reply = parse_reply(output, TOOLS, interpreter=False)
    assert (reply.code, reply.content) == (None, output)


# Events


def events_of(pieces: Iterable[str], **options: Any) -> tuple[list[Event], Reply]:
    """Events for a reply in pieces, where the piece "<|assistant|>" stands for the token."""
    parser = ReplyParser(**options)
    events: list[Event] = []
    for piece in pieces:
        events += parser.next_message() if piece == "<|assistant|>" else parser.feed(piece)
    last, reply = parser.finish()
    return events + last, reply


def joined(events: list[Event]) -> list[Event]:
    """Events with neighbouring deltas put together: what is left must not depend on the pieces."""
    result: list[Event] = []
    for event in events:
        match result[-1] if result else None, event:
            case TextDelta(before), TextDelta(text):
                result[-1] = TextDelta(before + text)
            case CallDelta(index, before), CallDelta(_, text):
                result[-1] = CallDelta(index, before + text)
            case _:
                result.append(event)
    return result


def test_the_events_of_a_thought_a_call_and_code() -> None:
    events, _ = events_of(
        [
            *["\n", " Let", " me see.\n", "<|assistant|>"],
            *["wea", "ther\n", CALL, "<|assistant|>"],
            *["interpreter\n", " ```python\nx =", " 1\nprint(x", ")\n```"],
        ],
        tool_names=TOOLS,
    )
    assert events == [
        TextDelta("Let"),
        TextDelta(" me see."),
        CallBegin(0, "weather"),
        CallDelta(0, CALL),
        CallEnd(0, call=ToolCall("weather", {"city": "Oslo"})),
        CallBegin(1, "interpreter", is_code=True),
        CallDelta(1, "x = 1"),
        CallDelta(1, "\nprint(x)"),
        CallEnd(1, code="x = 1\nprint(x)"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n 你", "你"),
        ("Hello t", "Hello t"),
        ("好的，", "好的，"),
        ("Sure\nI", "Sure\nI"),
        ("ok\n``x", "ok\n``x"),
    ],
)
def test_text_is_said_as_soon_as_it_can_be_no_call(text: str, said: str) -> None:
    parser = ReplyParser(TOOLS)
    assert [event for char in text[:-1] for event in parser.feed(char)] == []
    assert parser.feed(text[-1]) == [TextDelta(said)]


def test_a_call_begins_as_soon_as_its_name_is_known() -> None:
    assert ReplyParser(TOOLS).feed("weather\n") == [CallBegin(0, "weather")]
    assert ReplyParser(TOOLS).feed("stocks\n ```python\ntool_call")[:1] == []
    assert ReplyParser(TOOLS).feed("stocks\n ```python\ntool_call(")[:1] == [CallBegin(0, "stocks")]


# Properties

NAMES = ["weather", "stocks", "interpreter", "get the time", "get the", "x" * 70, "天气"]
BODIES = ["tool_call(city='Oslo')", "tool_call(", "tool_call", "{'a': 1}", "print(1)", "```"]
SPACES = ["", " ", "\n", "\r\n ", " " * 60, " " * 200]
FENCES = ["```python\n", "```", "``", ""]
MARKS = ["\n", " ", "\t", "你好，", "\\", "a=1", ", ", "'x'", ")", "[", "\n```"]
noise = st.lists(st.one_of(st.sampled_from(NAMES + BODIES + FENCES + MARKS), st.text(max_size=3)), max_size=8)
near_calls = st.tuples(*map(st.sampled_from, [SPACES, NAMES, SPACES, ["\n", ""], SPACES, FENCES, BODIES]))
outputs = st.builds(lambda start, rest: "".join([*start, *rest]), near_calls | st.just(()), noise)
messages_of_outputs = st.lists(outputs, min_size=1, max_size=3)
options = st.fixed_dictionaries({"tool_names": st.sampled_from([(), TOOLS]), "interpreter": st.booleans()})


def cut(texts: list[str], choose: Callable[[int], int]) -> list[str]:
    pieces: list[str] = []
    for number, text in enumerate(texts):
        if number:
            pieces.append("<|assistant|>")
        start = 0
        while start < len(text):
            size = choose(len(text) - start)
            pieces.append(text[start : start + size])
            start += size
    return pieces


@given(messages_of_outputs, options, st.randoms(use_true_random=False))
@example(["stocks\n" + " " * 60 + "```python\ntool_call()"], {}, random.Random(0))
@example([" " * 200 + "weather\n{}"], {"tool_names": TOOLS}, random.Random(0))
@example(["interpreter\n```python\ntool_call()"], {}, random.Random(0))
def test_pieces_make_no_difference(texts: list[str], options: dict[str, Any], chance: random.Random) -> None:
    whole_events, whole = events_of(cut(texts, lambda length: length), **options)
    for choose in (lambda _: 1, lambda length: chance.randint(1, length)):
        events, reply = events_of(cut(texts, choose), **options)
        assert reply == whole
        assert joined(events) == joined(whole_events)


@given(messages_of_outputs, options)
def test_whatever_is_written_is_a_reply_and_nothing_is_lost(
    texts: list[str], options: dict[str, Any]
) -> None:
    events, reply = events_of(cut(texts, lambda _: 1), **options)
    assert reply.raw == texts
    assert len(reply.messages) == len(texts)
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == reply.content
    for text, message in zip(texts, reply.messages):
        name, _, content = text.partition("\n")
        written = (name.strip(), content.strip()) if message.metadata else ("", text.strip())
        assert (message.metadata, message.content) == written
    begins = [event for event in events if isinstance(event, CallBegin)]
    ends = [event for event in events if isinstance(event, CallEnd)]
    assert [event.index for event in begins] == [event.index for event in ends] == list(range(len(begins)))
    assert [event.call for event in ends if event.call] == reply.tool_calls
    assert [event.problem for event in ends if event.problem] == reply.problems
    called = [text.partition("\n")[2] for text, message in zip(texts, reply.messages) if message.metadata]
    for begin, end, content in zip(begins, ends, called, strict=True):
        deltas = "".join(e.text for e in events if isinstance(e, CallDelta) and e.index == begin.index)
        assert begin.is_code is (end.code is not None)
        assert deltas == (end.code if begin.is_code else content)


@given(st.lists(st.one_of(st.integers(0, TINY.vocab_size + 9), st.just(TINY.assistant_id)), max_size=30))
def test_any_ids_are_a_reply(ids: list[int]) -> None:
    decoder = ReplyDecoder(TINY, TOOLS)
    events = [event for i in ids for event in decoder.add(i)]
    last, reply = decoder.finish()
    assert "".join(e.text for e in events + last if isinstance(e, TextDelta)) == reply.content
    assert len(reply.messages) == 1 + ids.count(TINY.assistant_id)


# From ids


def decode(ids: Iterable[int]) -> Reply:
    decoder = ReplyDecoder(TINY, TOOLS)
    for i in ids:
        decoder.add(i)
    return decoder.finish()[1]


def test_what_is_rendered_comes_back() -> None:
    """The ids that training puts after `<|assistant|>` are read as the message they came from."""
    messages = [
        Message("assistant", "Let me see 🙏."),
        Message.call(ToolCall("weather", {"city": "奥斯陆"})),
        Message("assistant", "```python\nprint(1)\n```", metadata="interpreter"),
    ]
    ids = [i for message in messages for i in encode_message(message, TINY)]
    reply = decode([*ids[1:], TINY.observation_id])
    assert reply.messages == messages
    assert reply.tool_calls == [ToolCall("weather", {"city": "奥斯陆"})]
    assert reply.code == "print(1)"
    assert [i for message in reply.messages for i in encode_message(message, TINY)] == ids


def test_only_the_token_begins_a_message() -> None:
    spelled = TINY.encode("\nA<|assistant|>B")
    assert decode(spelled).content == "A<|assistant|>B"
    assert decode([*TINY.encode("\nA"), TINY.assistant_id, *TINY.encode("\nB")]).content == "A\nB"


def test_a_character_cut_off_by_the_end_is_replaced() -> None:
    ids = [3 + byte for byte in "\n🙏".encode()]
    assert decode(ids).content == "🙏"
    assert decode(ids[:-1]).content == "\ufffd" * 3


# Cost


@pytest.mark.parametrize(
    "start", ["\n ", "weather\n ```python\n", "interpreter\n ```python\n", "interpreter\n", " ", "ok\n", "x"]
)
@pytest.mark.parametrize("filler", ["a", " ", "\n", "`", "(", "[{"])
def test_cost_is_linear(start: str, filler: str) -> None:
    """The parser looks at a bounded part of what it has seen: what it keeps undecided never grows."""
    parser = ReplyParser(TOOLS)
    for char in start + filler * 600:
        parser.feed(char)
        assert len(parser._head) < 300
    parser.finish()
