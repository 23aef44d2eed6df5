"""Commands within a conversation, and the editing of a message."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from chatglm3.cli.conversation import COMMANDS, Conversation, LeaveError
from chatglm3.cli.line_editor import LineEditor
from chatglm3.engine import SamplingParams
from chatglm3.errors import ChatGLM3Error, InvalidMessageError, InvalidParameterError
from chatglm3.prompt import Message

EXCHANGE = [Message("user", "你好"), Message("assistant", "Hi!")]


@pytest.fixture
def conversation() -> Conversation:
    made = Conversation(SamplingParams(), system="Be brief.")
    made.messages += EXCHANGE
    return made


@pytest.mark.parametrize(
    "text", ["hello", "clear the table", "stop it", "/usr/bin is a folder", " /help", "//", "a /set"]
)
def test_messages_are_no_commands(conversation: Conversation, text: str) -> None:
    assert conversation.command(text) is None


def test_help_names_every_command(conversation: Conversation) -> None:
    shown = conversation.command("/help")
    assert shown
    assert all(f"/{name}" in shown for name in COMMANDS)
    assert max(map(len, shown.splitlines())) < 80


@pytest.mark.parametrize("word", ["/clear", "clear", " clear "])
def test_clear_keeps_the_system_prompt(conversation: Conversation, word: str) -> None:
    assert conversation.command(word)
    assert conversation.messages == [Message("system", "Be brief.")]


@pytest.mark.parametrize("word", ["/exit", "stop"])
def test_leaving(conversation: Conversation, word: str) -> None:
    with pytest.raises(LeaveError):
        conversation.command(word)


def test_the_system_prompt_is_set_shown_and_removed(conversation: Conversation) -> None:
    assert conversation.command("/system") == "system prompt: Be brief."
    conversation.command("/system 用中文\n回答")
    assert conversation.messages == [Message("system", "用中文\n回答"), *EXCHANGE]
    assert conversation.command('/system ""') == "there is no system prompt"
    assert conversation.messages == EXCHANGE


def test_sampling_is_set_by_name(conversation: Conversation) -> None:
    assert conversation.command("/set temperature 0.5") == "temperature = 0.5"
    assert conversation.command("/set top_k=7") == "top_k = 7"
    assert conversation.command("/set seed 3") == "seed = 3"
    assert conversation.command("/set seed none") == "seed = None"
    assert conversation.sampling == SamplingParams(temperature=0.5, top_k=7)
    assert "temperature = 0.5" in (conversation.command("/set") or "")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("/set temperature -1", "temperature is -1.0"),
        ("/set temperature warm", "temperature is a number, not 'warm'"),
        ("/set temperature", "temperature is a number, not ''"),
        ("/set top_k 1.5", "top_k is a whole number, not '1.5'"),
        ("/set temprature 1", "did you mean 'temperature'?"),
        ("/set stop_ids 3", "there is no sampling parameter 'stop_ids'"),
        ("/clean", "there is no command /clean (did you mean '/clear'?)"),
        ("/", "there is no command /;"),
        ("/save", "name a file: /save FILE"),
    ],
)
def test_a_wrong_command_changes_nothing(conversation: Conversation, line: str, complaint: str) -> None:
    before = (conversation.sampling, list(conversation.messages))
    with pytest.raises(
        ChatGLM3Error, match=complaint.replace("(", r"\(").replace("?", r"\?").replace(")", r"\)")
    ):
        conversation.command(line)
    assert (conversation.sampling, conversation.messages) == before


def test_what_is_saved_is_what_is_loaded(conversation: Conversation, tmp_path: Path) -> None:
    conversation.messages += [
        Message("user", "3+4?"),
        Message("assistant", "```python\ntool_call(a=3)\n```", metadata="add"),
        Message("observation", "7"),
    ]
    conversation.command(f"/save {tmp_path / 'a b.json'}")
    other = Conversation(SamplingParams())
    assert (
        other.command(f"/load {tmp_path / 'a b.json'}") == f"6 messages loaded from {tmp_path / 'a b.json'}"
    )
    assert other.messages == conversation.messages


def test_other_peoples_conversations_are_loaded(conversation: Conversation, tmp_path: Path) -> None:
    items = [
        {"role": "developer", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "u"}]},
    ]
    (tmp_path / "openai.json").write_text(json.dumps(items), encoding="utf-8")
    conversation.command(f"/load {tmp_path / 'openai.json'}")
    assert conversation.messages == [Message("system", "s"), Message("user", "u")]


@pytest.mark.parametrize(
    "text", ["not json", '{"role": "user"}', '[{"role": "nobody", "content": "x"}]', "[3]"]
)
def test_a_file_that_is_no_conversation(conversation: Conversation, tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text, encoding="utf-8")
    before = list(conversation.messages)
    with pytest.raises(InvalidMessageError):
        conversation.command(f"/load {tmp_path / 'bad.json'}")
    assert conversation.messages == before


def test_bad_sampling_is_refused_at_once() -> None:
    with pytest.raises(InvalidParameterError):
        Conversation(SamplingParams()).command("/set top_p 2")


@pytest.fixture
def keyboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PipeInput]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with create_pipe_input() as pipe:
        yield pipe


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("hello\r", "hello"),
        ("你好世界\x1b[D\x1b[D\x7f们\r", "你们世界"),
        ("one\\\rtwo\r", "one\ntwo"),
        ("one\x1b\rtwo\r", "one\ntwo"),
        ('"""one\rtwo\\\r\rthree"""\r', "one\ntwo\\\n\nthree"),
        ('"""\rone\r"""\r', "one"),
        ('""""""\r', ""),
        ('say """hi"""\r', 'say """hi"""'),
        ("\x1b[200~pasted\nlines\x1b[201~\r", "pasted\nlines"),
        ("\r", ""),
    ],
)
def test_one_message_may_span_lines(keyboard: PipeInput, keys: str, message: str) -> None:
    keyboard.send_text(keys)
    assert LineEditor(input=keyboard, output=DummyOutput()).read() == message


def test_earlier_messages_come_back_in_the_next_session(keyboard: PipeInput) -> None:
    keyboard.send_text("first\x1b\rline\r")
    LineEditor(input=keyboard, output=DummyOutput()).read()
    keyboard.send_text("\x1b[A\r")
    assert LineEditor(input=keyboard, output=DummyOutput()).read() == "first\nline"


def test_ctrl_c_and_ctrl_d(keyboard: PipeInput) -> None:
    editor = LineEditor(input=keyboard, output=DummyOutput())
    keyboard.send_text("half\x03")
    with pytest.raises(KeyboardInterrupt):
        editor.read()
    keyboard.send_text("\x04")
    with pytest.raises(EOFError):
        editor.read()


def test_a_home_that_takes_no_file_is_no_obstacle(
    keyboard: PipeInput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    keyboard.send_text("hello\r")
    assert LineEditor(input=keyboard, output=DummyOutput()).read() == "hello"
    assert "are not kept" in capsys.readouterr().err
