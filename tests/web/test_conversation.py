"""Conversations and settings survive every way of keeping them, and come back only to their owner."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatglm3.chat import load_transcript
from chatglm3.errors import ChatGLM3Error, InvalidMessageError
from chatglm3.prompt import INTERPRETER, Message, ToolCall
from chatglm3.tools import Image
from chatglm3.web import Conversation, Host, Settings, Store, Users, export
from chatglm3.web.conversation import Detail

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
QUESTION = "#File: /mnt/data/a.csv\n#Size: 3\n#File uploaded\nHow many?"


def example() -> Conversation:
    made = Conversation(mode="code", tokens=12)
    made.set_messages(
        [
            Message("user", QUESTION),
            Message("assistant", "```python\nprint(1)\n```", metadata=INTERPRETER),
            Message("observation", "1\n[Image]"),
            Message("assistant", "One --> <b>.</b> ```"),
        ]
    )
    made.details[2] = Detail([Image(b"\x89PNG..")], 0.5, is_error=True)
    return made


def same(a: Conversation, b: Conversation) -> bool:
    return (a.title, a.mode, a.messages, a.details, a.steps) == (
        b.title,
        b.mode,
        b.messages,
        b.details,
        b.steps,
    )


@pytest.mark.parametrize("write", [export.to_json, export.to_markdown])
def test_files_hold_all_of_a_conversation(write: Callable[[Conversation], str], tmp_path: Path) -> None:
    made = example()
    file = tmp_path / "file"
    file.write_text(write(made), encoding="utf-8")
    again = export.read_file(file)
    assert same(made, again)
    assert again.id != made.id


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3))
def test_no_text_breaks_a_file(turns: list[tuple[str, str]]) -> None:
    made = Conversation()
    made.set_messages([m for q, a in turns for m in (Message("user", q), Message("assistant", a))])
    for write in (export.to_json, export.to_markdown):
        assert same(made, export.read(write(made)))


def test_chat_in_the_terminal_loads_what_the_page_wrote(tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    file.write_text(export.to_json(example()), encoding="utf-8")
    assert load_transcript(file) == example().messages


def test_transcripts_and_openai_messages_are_read() -> None:
    items = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    read = export.read(json.dumps(items))
    assert read.messages == [Message("user", "Hi")]
    assert read.title == "Hi"


@pytest.mark.parametrize(
    "text", ["", "{", "3", "[1]", '{"messages": 3}', '{"mode": "x", "messages": []}', "# Markdown of another"]
)
def test_other_files_are_refused(text: str) -> None:
    with pytest.raises(InvalidMessageError):
        export.read(text)


def test_steps_are_what_a_person_sees() -> None:
    question, call, answer = example().steps
    assert (question.text, question.files) == ("How many?", ["a.csv"])
    assert (call.text, call.result, call.status, call.seconds) == ("print(1)", "1\n[Image]", "error", 0.5)
    assert call.images[0].data == b"\x89PNG.."
    assert answer.message == 3


def test_several_calls_wait_and_are_answered_in_their_order() -> None:
    talk = Conversation()
    first, second = ToolCall("f", {"x": 1}), ToolCall("g", {})
    talk.set_messages([Message("user", "both"), Message.call(first), Message.call(second)])
    assert talk.waiting == [1, 2]
    with pytest.raises(InvalidMessageError, match="2 calls wait"):
        talk.observe(["only one"])
    talk.observe(["a", "b"])
    assert [m.content for m in talk.messages if m.role == "observation"] == ["a", "b"]
    assert [m.role for m in talk.messages] == ["user", *["assistant", "observation"] * 2]
    assert talk.waiting == []


def test_a_store_keeps_conversations_and_settings_apart(tmp_path: Path) -> None:
    made, path = example(), tmp_path / "deep" / "web.sqlite"
    store = Store(path)
    store.save("ada", made)
    store.save_settings("ada", Settings(seed=3, tools=("a",)))
    store.close()
    store = Store(path)
    assert path.stat().st_mode & 0o077 == 0
    found = store.load("ada", made.id)
    assert found is not None
    assert same(found, made)
    assert [entry.id for entry in store.list("ada")] == [made.id]
    assert store.settings("ada") == Settings(seed=3, tools=("a",))
    assert (store.load("bob", made.id), store.list("bob"), store.settings("bob")) == (None, [], Settings())
    store.delete("bob", made.id)
    assert store.list("ada")
    store.delete("ada", made.id)
    assert store.list("ada") == []


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a database, " * 100)
    with pytest.raises(ChatGLM3Error, match="--data"):
        Store(tmp_path / "file")


def test_users_hold_what_is_used_and_close_what_is_not(host: Host) -> None:
    users = Users(host, Store(None), idle_seconds=100)
    session = users.new("ada")
    assert users.session("ada", session.conversation.id) is session
    assert users.session("bob", session.conversation.id) is None
    session.conversation.set_messages([Message("user", "Hi")])
    session.choose_mode("tool")  # which keeps it
    users.close_idle()
    assert users.session("ada", session.conversation.id) is session
    session.used -= 1000
    users.close_idle()
    again = users.session("ada", session.conversation.id)
    assert again is not None
    assert again is not session
    assert again.conversation.messages == [Message("user", "Hi")]
    users.delete("ada", session.conversation.id)
    assert users.session("ada", session.conversation.id) is None
    users.close()


def test_threads_may_share_a_store() -> None:
    store = Store(None)

    def save(number: int) -> None:
        for _ in range(20):
            talk = Conversation()
            talk.set_messages([Message("user", str(number))])
            store.save(f"owner{number}", talk)

    threads = [threading.Thread(target=save, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(store.list(f"owner{number}")) for number in range(4)] == [20] * 4
