"""Replies read token by token, as `stream_chat` does, and from text, as `process_response` does."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatglm3.compat.replies import ReplyReader, Response, read_text
from chatglm3.tokenizer import Tokenizer
from tests.tokenizers import tiny_tokenizer_file

TOKENIZER = Tokenizer(tiny_tokenizer_file())
USER = {"role": "user", "content": "?"}
PLAIN = [USER]
TOOLS = [{"role": "system", "content": "Answer:", "tools": [{"name": "track"}, {"name": "note"}]}, USER]
CALL = "track\n```python\ntool_call(symbol='1')\n```"


def ids_of(text: str) -> list[int]:
    """Tokens of a reply; `<|assistant|>` in it is the token."""
    return TOKENIZER.encode(text, role_tokens=True)


def read(
    ids: list[int], history: list[dict[str, Any]], stop_id: int | None = None
) -> tuple[list[Response], Response, list[dict[str, Any]]]:
    """What the stream shows, the response in the end, and the turns that the reply adds."""
    reader = ReplyReader(TOKENIZER, history)
    shown = [item[0] for token in ids if reader.add(token) and (item := reader.so_far())]
    response, new_history = reader.finish(stop_id)
    assert new_history[: len(history)] == history
    return shown, response, new_history[len(history) :]


def turn(metadata: str, content: str) -> dict[str, str]:
    return {"role": "assistant", "metadata": metadata, "content": content}


def test_an_answer_grows() -> None:
    shown, response, turns = read(ids_of("\n hello world"), PLAIN)
    assert shown[0] == ""
    assert shown[-1] == response == "hello world"
    assert all(str(later).startswith(str(earlier)) for earlier, later in pairwise(shown))
    assert turns == [turn("", "hello world")]


def test_no_half_characters_are_shown() -> None:
    shown, response, _ = read(ids_of("\n a🎈b"), PLAIN)
    assert response == "a🎈b"
    assert [text for text in shown if text] == ["a", "a🎈", "a🎈b"]


def test_a_first_line_without_a_break_is_text() -> None:
    shown, response, turns = read(ids_of("hello world"), PLAIN)
    assert "hello" in shown
    assert response == "hello world"
    assert turns == [turn("", "hello world")]


def test_a_tool_call_comes_whole() -> None:
    shown, response, turns = read(ids_of(CALL), TOOLS)
    assert shown == []
    assert response == {"name": "track", "parameters": {"symbol": "1"}}
    assert turns == [turn("track", "```python\ntool_call(symbol='1')\n```")]


def test_without_tools_a_call_is_code_that_grows() -> None:
    shown, response, _ = read(ids_of(CALL), PLAIN)
    calls = [item for item in shown if isinstance(item, dict)]
    assert response == calls[-1] == {"name": "track", "content": "```python\ntool_call(symbol='1')\n```"}
    assert len(calls) > 5


def test_interpreter_code_grows() -> None:
    for history in (PLAIN, TOOLS):
        shown, response, turns = read(ids_of("interpreter\n```python\nprint(1)\n```"), history)
        assert response == {"name": "interpreter", "content": "```python\nprint(1)\n```"}
        assert shown[-1] == response
        assert all(isinstance(item, dict) for item in shown)
        assert turns == [turn("interpreter", "```python\nprint(1)\n```")]


def test_a_thought_before_a_call() -> None:
    shown, response, turns = read(ids_of(f"\n hello<|assistant|>{CALL}"), TOOLS)
    assert "hello" in shown
    assert response == {"name": "track", "parameters": {"symbol": "1"}}
    assert [t["metadata"].strip() for t in turns] == ["", "track"]


def test_what_is_no_call_is_text() -> None:
    for text in (
        "track\n```python\ntool_call(symbol=open('x'))\n```",
        "track\n```python\ntool_call('1')\n```",
        "track\n```python\ntool_call(symbol=",
        "Sure, here it is:\n1. one",
        "track",
    ):
        _, response, turns = read(ids_of(text), TOOLS)
        assert response == text
        assert len(turns) == 1


def test_a_model_that_waits_for_an_observation_has_made_a_call() -> None:
    ids = ids_of("calc\n print(1)")
    assert read(ids, PLAIN)[1] == "calc\n print(1)"
    _, response, turns = read(ids, PLAIN, TOKENIZER.observation_id)
    assert response == {"name": "calc", "content": " print(1)"}
    assert turns == [turn("calc", " print(1)")]
    assert read(ids_of("\n hello"), PLAIN, TOKENIZER.observation_id)[1] == "hello"


def test_the_training_date_is_filled_in_for_the_reader_only() -> None:
    response, history = read_text("\n [[训练时间]]", PLAIN)
    assert response == "2023年"
    assert history[-1]["content"] == "[[训练时间]]"


def test_an_empty_reply() -> None:
    shown, response, turns = read([], PLAIN)
    assert (shown, response, turns) == ([], "", [turn("", "")])


def test_the_callers_history_stays_as_it_is() -> None:
    history = copy.deepcopy(TOOLS)
    _, new_history = read_text(CALL, history)
    new_history[1]["content"] = "changed"
    assert history == TOOLS


@given(st.lists(st.integers(0, TOKENIZER.vocab_size + 3), max_size=30), st.sampled_from([PLAIN, TOOLS, []]))
def test_any_tokens_can_be_read(ids: list[int], history: list[dict[str, Any]]) -> None:
    shown, response, turns = read([i for i in ids if i not in TOKENIZER.stop_ids], history)
    assert isinstance(response, str) or {"name"} < response.keys() <= {"name", "parameters", "content"}
    assert len(turns) == 1 + ids.count(TOKENIZER.assistant_id)
    for item in shown:
        assert isinstance(item, str | dict)


@given(st.text(alphabet="a\n `'\"()=,<|>好🎈", max_size=40), st.sampled_from([PLAIN, TOOLS]))
def test_tokens_and_text_are_read_alike(text: str, history: list[dict[str, Any]]) -> None:
    text = f"track\n```python\ntool_call{text}" if text.startswith("(") else text
    for sample in (text, f"\n {text}"):
        _, response, turns = read(TOKENIZER.encode(sample), history)
        from_text, new_history = read_text(TOKENIZER.decode(TOKENIZER.encode(sample)), history)
        assert response == from_text
        assert turns == new_history[len(history) :]


@pytest.mark.parametrize("tools", [None, "text", {"name": "track"}, [1, {"name": 2}], []])
def test_tools_may_be_any_json(tools: Any) -> None:
    history = [{"role": "system", "content": "Answer:", "tools": tools}, USER]
    assert read_text(CALL, history)[0] == {"name": "track", "parameters": {"symbol": "1"}}
