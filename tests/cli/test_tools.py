"""Tools on the command line: what is run, asked, shown, refused, stopped and kept."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from chatglm3.chat import ToolImage, Unfinished
from chatglm3.cli.arguments import load
from chatglm3.cli.conversation import Conversation
from chatglm3.cli.display import TerminalDisplay, folded
from chatglm3.cli.images import ImageFolder, drawn
from chatglm3.cli.tools import AttendedToolbox, Stop
from chatglm3.engine import SamplingParams
from chatglm3.errors import ChatGLM3Error
from chatglm3.prompt import INTERPRETER, CallEnd, Message, TextDelta, ToolCall
from chatglm3.tools import Image, ToolResult, tool
from tests.cli.conftest import Outcome
from tests.cli.screen import Terminal
from tests.scripted import called, scripted

Run = Callable[..., Outcome]
ROOT = Path(__file__).resolve().parents[2]
CTRL_C, CTRL_D = "\x03", "\x04"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

MY_TOOLS = f'''
import os, subprocess, time
from pathlib import Path
from chatglm3 import tool
from chatglm3.tools import Image, ToolOutput

@tool
def get_price(item: str) -> dict:
    """Get the price of a drink."""
    print("looked up by Python")
    subprocess.run(["echo", "looked up by a program"])
    return {{"item": item, "euros": 3.5}}

@tool(needs_approval=True)
def place_order(item: str) -> str:
    """Order a drink."""
    Path("orders.txt").open("a").write(item + "\\n")
    return "ordered"

@tool
def draw() -> ToolOutput:
    """Draw."""
    return ToolOutput("drawn", (Image({PNG!r}),))

@tool
def long_list() -> str:
    """Many lines."""
    return "\\n".join(f"line {{i}}" for i in range(20))

@tool
async def wait() -> str:
    """Wait."""
    import asyncio
    await asyncio.sleep(600)
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_tools.py").write_text(MY_TOOLS, encoding="utf-8")
    shutil.copy(ROOT / "examples" / "track.yaml", tmp_path)
    return tmp_path


@pytest.fixture
def scripted_run(run: Run, monkeypatch: pytest.MonkeyPatch, model_folder: Path, folder: Path) -> Run:
    """Run `chat` with a model that says what is given."""

    def call(*words: object, replies: list[str], stdin: str = "hello") -> Outcome:
        monkeypatch.setattr(
            "chatglm3.cli.chat.load", lambda args: scripted(load(args), *replies, computes=False)
        )
        return run("chat", model_folder, *words, stdin=stdin)

    return call


def lines(outcome: Outcome) -> list[dict[str, Any]]:
    return [json.loads(line) for line in outcome.out.splitlines()]


def test_a_pipe_gets_the_answer_alone(scripted_run: Run) -> None:
    replies = [
        "\n Let me see.<|assistant|>" + called("get_price", "item='tea'"),
        called("draw", ""),
        "\n It costs 3.5 euros.",
    ]
    done = scripted_run("--tools", "my_tools.py", "--images", "pictures", replies=replies)
    assert done.code == 0
    assert done.out == "Let me see.\nIt costs 3.5 euros.\n"
    assert "looked up by Python" in done.err
    (picture,) = Path("pictures").iterdir()
    assert picture.read_bytes() == PNG
    assert f"image: {picture}" in done.err


def test_json_has_calls_results_and_images(scripted_run: Run) -> None:
    replies = [called("get_price", "item='tea'"), called("draw", ""), "\n 3.5 euros."]
    events = lines(scripted_run("--json", "--tools", "my_tools.py,calculator", replies=replies))
    kinds = [event["event"] for event in events if event["event"] != "text"]
    assert kinds == ["call", "result", "call", "image", "result", "done"]
    assert events[0] == {"event": "call", "name": "get_price", "arguments": {"item": "tea"}}
    assert events[1]["content"] == '{"item": "tea", "euros": 3.5}'
    assert events[1]["seconds"] >= 0
    assert base64.b64decode(events[3]["data"]) == PNG
    assert not Path("chatglm3-images").exists()
    assert events[-1]["content"] == "3.5 euros."


def test_programs_that_a_tool_starts_do_not_write_into_the_json(model_folder: Path, folder: Path) -> None:
    (folder / "replies.json").write_text(json.dumps([called("get_price", "item='tea'"), "\n Done."]))
    words = ["replies.json", "chat", str(model_folder), "--json", "--tools", "my_tools.py"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.cli.scripted_chat", *words],
        check=True,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        input="hello",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert json.loads(done.stdout.splitlines()[-1])["content"] == "Done."
    assert all(line.startswith('{"event"') for line in done.stdout.splitlines())
    assert "looked up by Python\n" in done.stderr
    assert "looked up by a program\n" in done.stderr


@pytest.mark.parametrize("yes", [False, True])
def test_what_writes_is_refused_unless_yes(scripted_run: Run, yes: bool) -> None:
    replies = [called("place_order", "item='tea'"), "\n Done."]
    words = ["--json", "--tools", "my_tools.py", *(["--yes"] if yes else [])]
    outcome = scripted_run(*words, replies=replies)
    (result,) = [event for event in lines(outcome) if event["event"] == "result"]
    assert result["is_error"] is not yes
    assert Path("orders.txt").exists() is yes
    assert ("--yes" in outcome.err) is not yes
    assert result["content"] == (
        "ordered" if yes else "Error: the user does not allow this call. Do not try it again"
    )


def test_without_a_person_the_calls_of_definitions_are_printed(scripted_run: Run) -> None:
    replies = [called("track", "number='A17'")]
    assert scripted_run("--tools", "track.yaml", replies=replies).out == "track(number='A17')\n"


def test_strict_tools_and_mcp_configs_are_handed_on(scripted_run: Run, folder: Path) -> None:
    server = {"command": sys.executable, "args": ["-c", "raise SystemExit('no server')"]}
    (folder / "mcp.json").write_text(json.dumps({"mcpServers": {"broken": server}}), encoding="utf-8")
    broken = scripted_run("--mcp-config", "mcp.json", replies=["\n Hi."])
    assert (broken.code, broken.out) == (1, "")
    assert "the MCP server 'broken' cannot be used" in broken.err
    assert scripted_run("--tools", "calculator", "--strict-tools", replies=["\n Hi."]).out == "Hi.\n"


def test_tools_of_a_server_named_on_the_command_line(scripted_run: Run, folder: Path) -> None:
    (folder / "server.py").write_text(
        "from mcp.server import MCPServer\n"
        "server = MCPServer('prices')\n"
        "@server.tool()\n"
        "def price(item: str) -> str:\n"
        "    return f'{item}: 3 euros'\n"
        "server.run()\n",
        encoding="utf-8",
    )
    replies = [called("price", "item='tea'"), "\n Three."]
    command = f"{sys.executable} {folder / 'server.py'}"
    events = lines(scripted_run("--json", "--yes", "--mcp", command, replies=replies))
    assert [event["content"] for event in events if event["event"] == "result"] == ["tea: 3 euros"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--tools", "absent.py"], "there is no tool and no file 'absent.py'"),
        (["--tools", "calculator,builtin"], "two tools are called 'calculator'"),
        (["--mcp", "'"], "an MCP server is a command or a URL"),
        (["--mcp-config", "absent.json"], "absent.json"),
    ],
)
def test_mistakes_are_told_before_the_model_is_loaded(run: Run, words: list[str], complaint: str) -> None:
    outcome = run("chat", "no-such-model", *words, stdin="hello")
    assert outcome.code == 1
    assert complaint in outcome.err


def open_terminal(model: Path, folder: Path, replies: list[str], *words: str, **env: str) -> Terminal:
    (folder / "replies.json").write_text(json.dumps(replies), encoding="utf-8")
    env = {"PYTHONPATH": str(ROOT), **env}
    return Terminal(
        "replies.json", "chat", model, *words, home=folder, module="tests.cli.scripted_chat", **env
    )


def test_a_person_is_asked_before_what_writes(model_folder: Path, folder: Path) -> None:
    order, answer = called("place_order", "item='tea'"), "\n So be it."
    replies = [order, answer] * 4
    with open_terminal(model_folder, folder, replies, "--tools", "my_tools.py") as terminal:
        terminal.expect("tools: get_price, place_order")
        question = "run place_order? [y]es, [n]o, [a]lways:"
        terminal.ask("first\r", "→ place_order(item='tea')")
        terminal.expect(question)
        terminal.type("perhaps\r")
        terminal.expect("perhaps\r\r\n")
        terminal.expect(question)
        terminal.type("n\r")
        terminal.expect("✗ place_order")
        for answer in ["y\r", "a\r"]:
            terminal.ask("again\r", question)
            terminal.type(answer)
            terminal.expect("✓ place_order")
        terminal.ask("and again\r", "→ place_order")
        assert question not in terminal.expect("✓ place_order")
        assert terminal.leave(CTRL_D) == 0
    assert (folder / "orders.txt").read_text(encoding="utf-8") == "tea\n" * 3


def test_ctrl_c_stops_a_tool_and_not_the_program(model_folder: Path, folder: Path) -> None:
    replies = ["\n Let me see.<|assistant|>" + called("wait", ""), "\n Here I am."]
    with open_terminal(model_folder, folder, replies, "--tools", "my_tools.py") as terminal:
        terminal.ask("hello\r", "→ wait()")
        terminal.type(CTRL_C)
        terminal.expect("stopped; the part above stays")
        terminal.ask("hello again\r", "Here I am.")
        terminal.ask("/save kept.json\r", "6 messages saved")
        terminal.ask("/clear\r", "afresh")
        terminal.ask("/load kept.json\r", "6 messages loaded")
        assert terminal.leave(CTRL_D) == 0
    kept = json.loads((folder / "kept.json").read_text(encoding="utf-8"))
    assert [message["role"] for message in kept] == [
        *("user", "assistant", "assistant", "observation", "user", "assistant")
    ]
    assert kept[2]["metadata"] == "wait"
    assert kept[3]["content"] == "Error: the user stopped this call"


def test_calls_of_definitions_are_answered_by_typing(model_folder: Path, folder: Path) -> None:
    both = called("track", "number='A17'") + "<|assistant|>" + called("calculator", "expression='6*7'")
    replies = [both, "\n It is in Hamburg.", called("track", "number='B2'"), "\n Stopped?"]
    with open_terminal(model_folder, folder, replies, "--tools", "track.yaml,calculator") as terminal:
        terminal.ask("where is it?\r", "→ calculator(expression='6*7')")
        terminal.expect("result of track:")
        terminal.type("in Hamburg\r")
        terminal.expect("✓ calculator")
        terminal.expect("It is in Hamburg.")
        terminal.ask("/save kept.json\r", "6 messages saved")
        terminal.ask("and the other?\r", "result of track:")
        terminal.type(CTRL_C)
        terminal.expect("stopped; the part above stays")
        assert terminal.leave(CTRL_D) == 0
    kept = json.loads((folder / "kept.json").read_text(encoding="utf-8"))
    assert [message["content"] for message in kept if message["role"] == "observation"] == [
        "in Hamburg",
        "42",
    ]


def test_files_go_to_the_interpreter_and_come_back(model_folder: Path, folder: Path) -> None:
    pytest.importorskip("ipykernel")
    from chatglm3.tools.interpreter import best_isolation

    if best_isolation() is None:
        pytest.skip("this machine cannot isolate a code interpreter")
    (folder / "data.csv").write_text("1\n2\n3\n", encoding="utf-8")
    code = (
        "text = open('data.csv').read()\nopen('sum.txt', 'w').write('6')\nprint(sum(map(int, text.split())))"
    )
    replies = [f"interpreter\n```python\n{code}\n```", "\n It is 6."]
    with open_terminal(model_folder, folder, replies, "--interpreter") as terminal:
        terminal.expect("code interpreter (isolated by ")
        terminal.ask("/upload data.csv\r", "the model is told with your next message")
        terminal.ask("/upload absent.csv\r", "error: absent.csv: No such file")
        terminal.ask("add them\r", "✓ interpreter")
        terminal.expect("It is 6.")
        terminal.ask("/files\r", "sum.txt")
        terminal.ask("/fetch sum.txt\r", "sum.txt (1 bytes)")
        terminal.ask("/fetch sum.txt\r", "error: sum.txt: File exists")
        terminal.ask("/save kept.json\r", "4 messages saved")
        assert terminal.leave(CTRL_D) == 0
    assert (folder / "sum.txt").read_text(encoding="utf-8") == "6"
    kept = json.loads((folder / "kept.json").read_text(encoding="utf-8"))
    assert kept[0]["content"].startswith("#File: /")
    assert kept[0]["content"].endswith("#Size: 6\n#File uploaded\nadd them")
    assert kept[2]["content"] == "6"


def test_an_interpreter_without_walls_is_refused_and_asked_about(
    scripted_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ipykernel")
    for module in ("chatglm3.tools.interpreter", "chatglm3.tools.interpreter.interpreter"):
        monkeypatch.setattr(f"{module}.best_isolation", lambda: None)
    refused = scripted_run("--interpreter", replies=["\n Hi."])
    assert (refused.code, refused.out) == (1, "")
    assert "--unsafe-interpreter" in refused.err
    for words, observed in [([], "Error: the user does not allow this call"), (["--yes"], "42")]:
        replies = ["interpreter\n```python\nprint(6 * 7)\n```", "\n 42."]
        events = lines(scripted_run("--json", "--unsafe-interpreter", *words, replies=replies))
        assert events[0] == {"event": "code", "code": "print(6 * 7)"}
        (result,) = [event for event in events if event["event"] == "result"]
        assert result["content"].startswith(observed)


def test_a_result_is_folded() -> None:
    long = ToolResult(0, "look", None, "\n".join(f"line {i}" for i in range(20)), seconds=0.25)
    assert folded(long) == [
        "✓ look · 0.2 s",
        *("  line 0", "  line 1", "  line 2", "  line 3"),
        "  … lines left out: 16",
    ]
    assert folded(ToolResult(0, "look", None, "Error: no", is_error=True)) == [
        "✗ look · 0.0 s",
        "  Error: no",
    ]


def test_a_result_cannot_move_the_cursor_and_keeps_to_the_width(tmp_path: Path) -> None:
    file = io.StringIO()
    display = TerminalDisplay(Console(file=file, width=40, force_terminal=True), ImageFolder(tmp_path))
    display.show(ToolResult(0, "look", None, "\x1b[2J\x1b]0;title\x07" + "wide 宽 " * 30))
    shown = file.getvalue()
    assert "\x1b[2J" not in shown
    assert "\x1b]" not in shown
    assert shown.count("\n") == 2
    assert "…" in shown


def test_images_are_kept_and_drawn_where_the_terminal_can(tmp_path: Path) -> None:
    image = Image(PNG)
    assert drawn(image, {"TERM": "xterm-256color"}) == ""
    assert drawn(image, {"TERM": "screen", "TERM_PROGRAM": "iTerm.app"}) == ""
    assert drawn(image, {"TERM": "xterm-kitty", "TMUX": "/tmp/x"}) == ""
    assert drawn(Image(PNG, "image/jpeg"), {"TERM": "xterm-kitty"}) == ""
    iterm = drawn(image, {"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"})
    assert base64.b64decode(iterm.split(":")[1].split("\a")[0]) == PNG
    kitty = drawn(Image(PNG + bytes(6400)), {"TERM": "xterm-kitty"})
    chunks = kitty.rstrip("\n").removeprefix("\x1b_G").removesuffix("\x1b\\").split("\x1b\\\x1b_G")
    assert [chunk.split(";")[0] for chunk in chunks] == ["a=T,f=100,q=2,m=1", "m=1", "m=0"]
    assert base64.b64decode("".join(chunk.split(";")[1] for chunk in chunks)) == PNG + bytes(6400)
    folder = ImageFolder(tmp_path / "pictures")
    said = [folder.keep(image), folder.keep(image)]
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2
    assert said[0] != said[1]


def test_a_folder_that_takes_no_images_does_not_end_the_answer(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    file = io.StringIO()
    display = TerminalDisplay(Console(file=file, width=200), ImageFolder(tmp_path / "file" / "pictures"))
    display.show(ToolImage(0, Image(PNG)))
    assert "the image cannot be kept: " in file.getvalue()


def test_an_unfinished_answer_is_a_conversation() -> None:
    unfinished = Unfinished()
    assert unfinished.messages == []
    first, second = ToolCall("price", {"item": "tea"}), ToolCall("price", {"item": "milk"})
    for event in [
        TextDelta("Let me "),
        TextDelta("see."),
        CallEnd(0, call=first),
        CallEnd(1, problem="it cannot be read"),
        CallEnd(2, call=second),
        ToolResult(2, "price", second, "2"),
        CallEnd(3, code="print(1)"),
        TextDelta("So"),
    ]:
        unfinished.add(event)
    assert unfinished.messages == [
        Message("assistant", "Let me see."),
        Message.call(first),
        Message("observation", "Error: the user stopped this call"),
        Message.call(second),
        Message("observation", "2"),
        Message("assistant", "```python\nprint(1)\n```", metadata=INTERPRETER),
        Message("observation", "Error: the user stopped this call"),
        Message("assistant", "So"),
    ]


def test_interrupts_wait_for_the_model_and_not_for_tools() -> None:
    stop = Stop()
    stop.interrupt(2, None)
    assert stop.is_wanted
    with pytest.raises(KeyboardInterrupt):
        stop.interrupt(2, None)
    with pytest.raises(KeyboardInterrupt), stop.at_once():
        pytest.fail("a tool was started after a Ctrl-C")
    stop.is_wanted = False
    with pytest.raises(KeyboardInterrupt), stop.at_once():
        stop.interrupt(2, None)


def test_the_person_answers_among_functions() -> None:
    @tool
    def double(number: int) -> int:
        """Double a number."""
        return 2 * number

    definition = {"name": "track", "description": "Track", "parameters": {"type": "object", "properties": {}}}
    with AttendedToolbox(
        double, definition, stop=Stop(), observe=lambda call: f"by hand: {call.name}"
    ) as box:
        assert box.answers("track")
        assert box.answers("unknown")
        results = list(
            box.run([ToolCall("double", {"number": 4}), ToolCall("track", {}), ToolCall("what", {})])
        )
        assert sorted((result.index, result.content[:14]) for result in results) == [
            (0, "8"),
            (1, "by hand: track"),
            (2, "Error: there i"),
        ]
    with AttendedToolbox(definition, stop=Stop()) as box:
        assert not box.answers("track")
        assert not box.runs_anything


@pytest.mark.parametrize("line", ["/upload x.csv", "/files", "/fetch x.csv"])
def test_without_an_interpreter_there_are_no_files(line: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.csv").write_text("1")
    with pytest.raises(ChatGLM3Error, match="--interpreter"):
        Conversation(SamplingParams()).command(line)


def test_nano_goes_through_the_motions(run: Run, folder: Path) -> None:
    """Whether it calls anything is not this test's business."""
    words = ["--json", "--tools", "builtin,my_tools.py", "--temperature", "0", "--max-tokens", "60"]
    outcome = run("chat", *words, stdin="What is 6 * 7?")
    assert outcome.code == 0
    assert lines(outcome)[-1]["event"] == "done"
