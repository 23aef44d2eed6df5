"""`chatglm3 chat` as a person meets it: a real process in a real terminal."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from tests.cli.screen import Terminal

BACKSPACE, CTRL_C, CTRL_D, LEFT, UP, ALT_ENTER = "\x7f", "\x03", "\x04", "\x1b[D", "\x1b[A", "\x1b\r"
LONG = ["--temperature", "0", "--max-tokens", "8000"]


def test_a_conversation(model_folder: Path, tmp_path: Path) -> None:
    with Terminal("chat", model_folder, "--max-tokens", "8", "--seed", "1", home=tmp_path) as terminal:
        terminal.expect("Ctrl-D leaves.")
        terminal.ask("你好世界" + LEFT * 2 + BACKSPACE + "们\r", "8 tokens ·")
        terminal.expect("limit of tokens")
        terminal.ask("/sett\r", "did you mean '/set'?")
        terminal.ask("/set top_k 5\r", "top_k = 5")
        terminal.ask("/set temperature -1\r", "error: temperature is -1")
        terminal.ask("first\\\rsecond" + ALT_ENTER + "third\r", "8 tokens ·")
        terminal.ask("/save kept.json\r", "4 messages saved")
        terminal.ask(UP * 2 + "\r", "8 tokens ·")  # the three lines again, out of the history
        terminal.ask("clear\r", "starts afresh")
        terminal.ask("/load kept.json\r", "4 messages loaded")
        terminal.ask("/load absent.json\r", "error: absent.json: No such file")
        assert terminal.leave(CTRL_D) == 0
    saved = json.loads((tmp_path / "kept.json").read_text(encoding="utf-8"))
    assert [message["role"] for message in saved] == ["user", "assistant"] * 2
    assert [message["content"] for message in saved[::2]] == ["你们世界", "first\nsecond\nthird"]
    history = tmp_path / "chatglm3" / "chat_history"
    assert "你们世界" in history.read_text(encoding="utf-8")
    assert history.stat().st_mode & 0o077 == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(model_folder: Path, tmp_path: Path) -> None:
    with Terminal("chat", model_folder, *LONG, home=tmp_path) as terminal:
        terminal.expect("Ctrl-D leaves.")
        terminal.ask("hello\r", "hello\r\r\n")
        terminal.expect("\n")  # the first line of the answer
        terminal.type(CTRL_C)
        terminal.expect("stopped; the part above stays", within=20)
        terminal.ask("/save kept.json\r", "2 messages saved")
        terminal.ask("half a line" + CTRL_C, "Ctrl-D leaves.")
        terminal.ask("/set max_tokens 3\r", "max_tokens = 3")
        terminal.ask("again\r", "tokens/s")
        assert terminal.leave("stop\r") == 0
    question, answer = json.loads((tmp_path / "kept.json").read_text(encoding="utf-8"))
    assert question == {"role": "user", "content": "hello"}
    assert answer["role"] == "assistant"
    assert answer["content"]


def test_old_turns_that_no_longer_fit_are_reported(short_context: Path, tmp_path: Path) -> None:
    with Terminal(
        "chat", short_context, "--temperature", "0", "--max-tokens", "10", home=tmp_path
    ) as terminal:
        terminal.expect("Ctrl-D leaves.")
        for _ in range(6):  # of 11 tokens and an answer each, in a context of 64
            terminal.ask("hello world hello world\r", "first token")
        terminal.expect("no longer fit the context")
        terminal.ask("hello " * 100 + "\r", "error: ")
        assert terminal.leave(CTRL_D) == 0


@pytest.mark.parametrize("setting", [{"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_terminals_that_want_less(model_folder: Path, tmp_path: Path, setting: dict[str, str]) -> None:
    with Terminal("chat", model_folder, "--max-tokens", "8", home=tmp_path, **setting) as terminal:
        terminal.expect("Ctrl-D leaves.")
        terminal.ask("hello\r", "tokens/s")
        # Not Ctrl-D: a dumb terminal shows the prompt a moment before it takes single keys.
        assert terminal.leave("stop\r") == 0


def test_the_prompt_is_there_within_three_seconds(tmp_path: Path, model_folder: Path) -> None:
    """In seconds of work, as other programs lengthen those of the clock; and even these a little, so 4."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with Terminal("chat", model_folder, home=tmp_path) as terminal:
        terminal.expect("Ctrl-D leaves.")
        assert terminal.leave(CTRL_D) == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 4
