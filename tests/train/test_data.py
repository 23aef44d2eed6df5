"""Training data: formats give the messages they mean; faults are named with file, line and field."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from chatglm3.errors import TrainingDataError
from chatglm3.prompt import TOOL_SYSTEM_PROMPT, Message, ToolCall, render
from chatglm3.train.data import (
    Completion,
    Conversation,
    Pair,
    Preference,
    Prepared,
    Problem,
    encode_sample,
    prepare,
    read_records,
    show_example,
    to_sample,
)
from chatglm3.train.data.dialogs import Refused
from chatglm3.train.data.encoding import answers
from chatglm3.train.encode import Example
from tests.tiny import tiny_tokenizer

USER, ANSWER = {"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello world"}
GOOD: dict[str, Any] = {"conversations": [USER, ANSWER]}
TOOLS = [{"name": "weather", "description": "d", "parameters": {"type": "object", "properties": {}}}]
CALL = Message.call(ToolCall("weather", {"city": "Paris"}))


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
    return path


def check(tmp_path: Path, *train: Path, validation: tuple[Path, ...] = (), **options: Any) -> Prepared:
    options.setdefault("max_length", 256)
    return prepare(train, validation, tiny_tokenizer(), tmp_path / "store", **options)


def problem(tmp_path: Path, *records: Any, **options: Any) -> str:
    """The one problem that a file of these records has."""
    found = check(tmp_path, write(tmp_path / "train.jsonl", *records), **options).report.problems
    assert len(found) == 1, found
    return str(found[0]).removeprefix(f"{tmp_path}/")


def messages(record: dict[str, Any]) -> list[Message]:
    sample = to_sample(record)
    assert isinstance(sample, Conversation)
    return sample.messages


# --- formats ---------------------------------------------------------------------------------------------


def test_the_published_conversation_with_a_tool() -> None:
    record = {
        "tools": TOOLS,
        "conversations": [
            USER,
            {"role": "assistant", "content": "Let me see.", "loss": False},
            {"role": "tool", "name": "weather", "parameters": {"city": "Paris"}, "observation": {"c": "三"}},
            ANSWER,
        ],
    }
    assert messages(record) == [
        Message("system", TOOL_SYSTEM_PROMPT, tools=TOOLS),
        Message("user", "hello"),
        Message("assistant", "Let me see.", loss=False),
        CALL,
        Message("observation", '{"c": "三"}'),
        Message("assistant", "hello world"),
    ]


def test_a_system_message_takes_the_tools() -> None:
    record = {"tools": TOOLS, "conversations": [{"role": "system", "content": "Be brief."}, USER, ANSWER]}
    assert messages(record)[0] == Message("system", "Be brief.", tools=TOOLS)
    as_text = {**record, "tools": {"any": ["json"]}}
    assert messages(as_text)[0].tools == {"any": ["json"]}


def test_code_for_the_interpreter() -> None:
    code = {"role": "assistant", "metadata": "interpreter", "content": "```python\nprint(1)\n```"}
    record = {"conversations": [USER, code, {"role": "observation", "content": "1"}, ANSWER]}
    assert messages(record)[1] == Message("assistant", "```python\nprint(1)\n```", metadata="interpreter")


def test_openai_messages_with_tools() -> None:
    function = {"name": "weather", "arguments": '{"city": "Paris"}'}
    called = {"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": function}]}
    result = {"role": "tool", "tool_call_id": "a", "content": "sunny"}
    record = {
        "tools": [{"type": "function", "function": TOOLS[0]}],
        "messages": [USER, called, result, {**ANSWER, "weight": 0}, USER, ANSWER],
    }
    found = messages(record)
    assert found[0].tools == TOOLS
    assert found[2:4] == [CALL, Message("observation", "sunny")]
    assert [m.loss for m in found if m.content == "hello world"] == [False, True]
    # A call may end a sample: what it gave is not known, and need not be.
    assert messages({"messages": [USER, called]})[-1] == CALL


def test_sharegpt_with_a_call() -> None:
    record = {
        "system": "Be brief.",
        "tools": json.dumps(TOOLS),
        "conversations": [
            {"from": "human", "value": "hello"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Paris"}}'},
            {"from": "observation", "value": "sunny"},
            {"from": "gpt", "value": "hello world"},
        ],
    }
    found = messages(record)
    assert found[0] == Message("system", "Be brief.", tools=TOOLS)
    assert found[2:] == [CALL, Message("observation", "sunny"), Message("assistant", "hello world")]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "hello", "response": "hello world"},
        {"content": "hello", "summary": "hello world"},
        {"instruction": "hello", "input": "", "output": "hello world"},
    ],
)
def test_single_turns(record: dict[str, str]) -> None:
    assert messages(record) == [Message("user", "hello"), Message("assistant", "hello world")]


def test_alpaca_with_everything() -> None:
    record = {"instruction": "a", "input": "b", "output": "c", "system": "s", "history": [["q", "r"]]}
    assert [m.content for m in messages(record)] == ["s", "q", "r", "a\nb", "c"]


def test_preference_pairs_in_three_spellings() -> None:
    expected = Preference([Message("user", "q")], [Message("assistant", "a")], [Message("assistant", "b")])
    question = {"role": "user", "content": "q"}
    a, b = ({"role": "assistant", "content": text} for text in "ab")
    assert to_sample({"prompt": "q", "chosen": "a", "rejected": "b"}) == expected
    assert to_sample({"prompt": [question], "chosen": [a], "rejected": [b]}) == expected
    assert to_sample({"chosen": [question, a], "rejected": [question, b]}) == expected
    with pytest.raises(Refused, match="the same"):
        to_sample({"prompt": "q", "chosen": "a", "rejected": "a"})


# --- token ids -------------------------------------------------------------------------------------------


def test_ids_are_inferences_own_and_the_stop_token_is_learnt() -> None:
    tokenizer = tiny_tokenizer()
    example = encode_sample(to_sample(GOOD), tokenizer)
    assert isinstance(example, Example)
    prompt = render([Message("user", "hello")], tokenizer).ids
    assert example.ids[: len(prompt)] == prompt
    assert example.learnt == [False] * len(prompt) + [True] * (len(example.ids) - len(prompt))
    assert example.ids[-1] == tokenizer.eos_id
    assert answers(example) == [(prompt, example.ids[len(prompt) :])]


def test_after_a_call_the_model_stops_for_the_result() -> None:
    tokenizer = tiny_tokenizer()
    example = encode_sample(Conversation([Message("user", "hello"), CALL]), tokenizer)
    assert isinstance(example, Example)
    assert (example.ids[-1], example.learnt[-1]) == (tokenizer.observation_id, True)


def test_a_completion_has_no_roles() -> None:
    tokenizer = tiny_tokenizer()
    sample = to_sample({"context": "1 2 3", "target": "4 5"})
    assert sample == Completion("1 2 3", "4 5")
    example = encode_sample(sample, tokenizer)
    assert isinstance(example, Example)
    target = [*tokenizer.encode("4 5"), tokenizer.eos_id]
    assert example.ids == tokenizer.prefix_ids + tokenizer.encode("1 2 3") + target
    assert sum(example.learnt) == len(target)


def test_a_pair_shares_its_prompt() -> None:
    tokenizer = tiny_tokenizer()
    pair = encode_sample(to_sample({"prompt": "q", "chosen": "yes", "rejected": "no"}), tokenizer)
    assert isinstance(pair, Pair)
    assert pair.prompt == render([Message("user", "q")], tokenizer).ids
    assert pair.chosen == [*tokenizer.encode("\n"), *tokenizer.encode("yes"), tokenizer.eos_id]


# --- files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.json.gz", "lines.json", "a.parquet"])
def test_every_kind_of_file_holds_the_same(tmp_path: Path, name: str) -> None:
    records = [GOOD, {"conversations": [USER, {"role": "assistant", "content": "你好"}]}]
    path = tmp_path / name
    if name.endswith(".parquet"):
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    else:
        lines = "\n".join(json.dumps(record, ensure_ascii=False) for record in records)
        text = json.dumps(records) if name.startswith("a.json") and "jsonl" not in name else lines
        data = b"\xef\xbb\xbf" + text.encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    prepared = check(tmp_path, path)
    assert prepared.report.problems == []
    tokenizer = tiny_tokenizer()
    assert list(prepared.train) == [encode_sample(to_sample(record), tokenizer) for record in records]
    where = [prepared.train.where(i) for i in range(2)]
    assert where in ([f"{path}[0]", f"{path}[1]"], [f"{path}:1", f"{path}:2"])


def test_pairs_come_back_from_the_store(tmp_path: Path) -> None:
    record = {"prompt": "q", "chosen": "yes", "rejected": "no"}
    prepared = check(tmp_path, write(tmp_path / "pairs.jsonl", record))
    assert prepared.kind is Preference
    assert prepared.train.pair(0) == encode_sample(to_sample(record), tiny_tokenizer())


# --- faults ----------------------------------------------------------------------------------------------

TOOL_ENTRY = {"role": "tool", "name": "w", "parameters": {}}


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"conversations": [ANSWER, USER]}, "conversations[0]: the first message after the system's"),
        ({"conversations": [USER, USER, ANSWER]}, "conversations[1]: a user's message after a user's"),
        ({"conversations": [{"role": "bot", "content": "x"}]}, "conversations[0].role: unknown role 'bot'"),
        ({"conversations": [USER]}, "conversations[0]: the conversation ends before an answer"),
        ({"conversations": []}, "the conversation is empty"),
        ({"conversations": "hi"}, "conversations: must be a list"),
        ({"conversations": [USER, 7]}, "conversations[1]: a message is an object, not 7"),
        ({"conversations": [USER, {"role": "assistant"}]}, "conversations[1]: a message needs a 'content'"),
        (
            {"conversations": [USER, {**ANSWER, "los": False}]},
            "conversations[1]: a message has no field 'los'",
        ),
        ({"conversations": [USER, {**ANSWER, "content": " "}]}, "conversations[1].content: an empty answer"),
        ({"conversations": [USER, {**ANSWER, "content": None}]}, "must be text, not None"),
        ({"conversations": [USER, {**ANSWER, "loss": False}]}, "no message is learnt"),
        ({"conversations": [USER, TOOL_ENTRY]}, "conversations[1].observation: is missing"),
        (
            {"conversations": [USER, {**TOOL_ENTRY, "observation": 1, "parameters": 3}, ANSWER]},
            "are not a JSON object",
        ),
        (
            {"conversations": [USER, {"role": "observation", "content": "1"}, ANSWER]},
            "conversations[1]: a tool's result without a call",
        ),
        (
            {"messages": [USER, {"role": "tool", "tool_call_id": "a", "content": "1"}, ANSWER]},
            "messages[1]: the tool message answers tool_call_id 'a'; the calls that wait for a result are: ",
        ),
        ({"messages": [USER, {**ANSWER, "weight": 2}]}, "messages[1].weight: is 2"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, "conversations[0].from: unknown role 'robot'"),
        ({"prompt": 1, "response": "x"}, "prompt: is int"),
        ({"prompt": "x", "response": ""}, "response: is empty"),
        ({"question": "x"}, "the fields question are no known format"),
        ({**GOOD, "messages": []}, "could be openai or chatglm3"),
        ([GOOD], "a sample is a JSON object, not list"),
        ({"prompt": "x", "response": "\ud83d"}, "half a character"),
    ],
)
def test_a_faulty_sample_is_named_and_the_others_are_kept(tmp_path: Path, record: Any, said: str) -> None:
    path = tmp_path / "train.jsonl"
    good = {"prompt": "x", "response": "y"} if isinstance(record, dict) and "response" in record else GOOD
    path.write_text("".join(json.dumps(item) + "\n" for item in (good, record, good)))
    prepared = check(tmp_path, path)
    assert len(prepared.train) == 2
    assert [p.where for p in prepared.report.problems] == [f"{path}:2"]
    assert said in str(prepared.report.problems[0])


def test_an_empty_file_and_one_that_is_not_there(tmp_path: Path) -> None:
    assert (
        problem(tmp_path) == "train.jsonl: the file holds no sample; is it the right one, and was it written?"
    )
    with pytest.raises(TrainingDataError, match=r"missing.jsonl is not there"):
        check(tmp_path, tmp_path / "missing.jsonl")


def test_invalid_json_far_down(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    line = json.dumps({"prompt": "1", "response": "2"})
    path.write_text(f"{line}\n" * 70_000 + '{"prompt": "1", \n' + f"{line}\n")
    found = list(read_records(path))
    faults = [item for item in found if isinstance(item, Problem)]
    assert [fault.where for fault in faults] == [f"{path}:70001"]
    assert "not JSON" in faults[0].message
    assert len(found) == 70_002


def test_other_encodings_and_cut_archives(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(json.dumps({"prompt": "你", "response": "y"}, ensure_ascii=False).encode("gb18030"))
    assert "byte 12 is not UTF-8" in str(check(tmp_path, path).report.problems[0])
    whole = gzip.compress(b"".join(json.dumps(GOOD).encode() + b"\n" for _ in range(5000)))
    cut = tmp_path / "train.jsonl.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    assert "damaged or cut off" in str(check(tmp_path, cut).report.problems[-1])


def test_formats_and_kinds_are_not_mixed(tmp_path: Path) -> None:
    other = {"prompt": "x", "response": "y"}
    said = problem(tmp_path, GOOD, other)
    assert said.startswith("train.jsonl:2: is in the format prompt-response, and ")
    assert "is in chatglm3; give each a file of its own" in said
    base = write(tmp_path / "base.jsonl", {"context": "x", "target": "y"})
    found = check(tmp_path, write(tmp_path / "chat.jsonl", GOOD), base).report.problems
    assert "is a completion without roles, and " in str(found[0])


def test_a_sample_that_is_too_long_is_refused_or_counted(tmp_path: Path) -> None:
    long = {"conversations": [USER, {"role": "assistant", "content": "1 2 " * 50_000}]}
    path = write(tmp_path / "train.jsonl", GOOD, long)
    said = str(check(tmp_path, path).report.problems[0])
    assert f"{path}:2: has " in said
    assert "max_length is 256; split it, raise max_length" in said
    prepared = check(tmp_path, path, skip_long=True)
    assert len(prepared.train) == 1
    assert f"left out as too long: {path}:2" in "\n".join(prepared.report.lines())


# --- report ----------------------------------------------------------------------------------------------


def test_duplicates_and_leaks_are_told(tmp_path: Path) -> None:
    other = {"conversations": [USER, {"role": "assistant", "content": "good day"}]}
    new = {"conversations": [{"role": "user", "content": "you?"}, ANSWER]}
    train = write(tmp_path / "train.jsonl", GOOD, other, GOOD)
    dev = write(tmp_path / "dev.jsonl", GOOD, {**other, "id": 7}, new)
    report = check(tmp_path, train, validation=(dev,)).report
    assert report.splits[0].duplicates == [(f"{train}:3", f"{train}:1")]
    assert report.leaks == [(f"{dev}:1", f"{train}:1"), (f"{dev}:2", f"{train}:1")]
    assert report.same_answers == 1
    text = "\n".join(report.lines())
    assert "the field 'id' is not read (1 samples have it)" in text
    assert "train: 3 samples to learn from (3 chatglm3)" in text


def test_a_sample_is_shown_token_by_token() -> None:
    tokenizer = tiny_tokenizer()
    example = encode_sample(to_sample(GOOD), tokenizer)
    assert isinstance(example, Example)
    lines = show_example(example, tokenizer)
    assert len(lines) == len(example.ids)
    assert [line.split()[1] for line in lines] == [str(id) for id in example.ids]
    assert ["learnt" in line for line in lines] == example.learnt
    assert lines[0].split() == ["0", str(tokenizer.gmask_id), "[gMASK]"]
    assert lines[-1].split()[-1] == "</s>"
