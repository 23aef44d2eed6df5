"""Running calls: whatever a tool does, the model gets an observation and the program goes on."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import itertools
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatglm3.errors import InvalidMessageError, ToolError
from chatglm3.prompt import INTERPRETER, ToolCall
from chatglm3.tools import Image, Tool, Toolbox, ToolOutput, ToolResult, tool

DEFINITION = {"name": "get_stock", "description": "Stock", "parameters": {"type": "object", "properties": {}}}


def finished(program: str) -> subprocess.CompletedProcess[str]:
    """A Python program of its own, when it has ended."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("chatglm3")}


@pytest.fixture(autouse=True)
def _no_thread_is_left_behind() -> Iterator[None]:
    before = threads()  # of other tests' servers, which live as long as their modules
    yield
    gc.collect()
    end = time.monotonic() + 2
    while threads() - before and time.monotonic() < end:
        time.sleep(0.01)
    assert threads() - before == set()


def observe(function: Any, arguments: dict[str, Any] | None = None, **options: Any) -> ToolResult:
    with Toolbox(function, **options) as toolbox:
        name = next(iter(toolbox)).name
        return toolbox.call(ToolCall(name, arguments or {}))


def returning(value: Any) -> str:
    result = observe(tool(name="f")(lambda: value))
    assert not result.is_error, result.content
    return result.content


@dataclasses.dataclass
class Point:
    x: int
    tags: set[str]


@pytest.mark.parametrize(
    ("value", "content"),
    [
        ("天气 ok", "天气 ok"),
        ("", ""),
        (None, "null"),
        (True, "true"),
        (3, "3"),
        ({"城市": [1, 2.5]}, '{"城市": [1, 2.5]}'),
        ([float("nan"), float("inf")], "[NaN, Infinity]"),
        (Point(1, {"a"}), '{"x": 1, "tags": ["a"]}'),
        (Path("a/b"), '"a/b"'),
        (b"\xff\x00\x01", "3 bytes of binary data"),
        (np.arange(3), "[0, 1, 2]"),
        (np.float32(0.5), "0.5"),
        ({"deep": {"bytes": b"\xff"}}, '{"deep": {"bytes": "_w=="}}'),
        (iter("ab"), '["a", "b"]'),
        ("\ud83d", "?"),
    ],
)
def test_results_are_text(value: Any, content: str) -> None:
    assert returning(value) == content


def test_what_is_no_value_is_still_an_observation() -> None:
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    result = observe(tool(name="f")(lambda: cyclic))
    assert result.is_error
    assert "Circular reference" in result.content
    assert "object object" in returning(object())
    assert returning(itertools.count()).endswith("cut here: 4000 of 58930 characters are shown]")


def test_long_results_are_cut_at_a_visible_mark() -> None:
    result = observe(tool(name="f")(lambda: "x" * 1_000_000), max_chars=10)
    assert result.content == "xxxxxxxxxx\n[cut here: 10 of 1000000 characters are shown]"


def test_images_are_for_the_reader() -> None:
    picture = Image(b"\x89PNG")
    result = observe(tool(name="f")(lambda: ToolOutput("a curve", (picture,))))
    assert (result.content, result.images) == ("a curve", (picture,))
    assert observe(tool(name="f")(lambda: picture)).images == (picture,)


def fails() -> None:
    raise ZeroDivisionError("division by zero")


def exits() -> None:
    sys.exit(3)


def interrupts() -> None:
    raise KeyboardInterrupt


def cancels() -> None:
    raise asyncio.CancelledError


def stops() -> None:
    raise StopIteration("enough")


def speaks() -> None:
    raise ToolError("the city is unknown")


def unspeakable() -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise ValueError

    raise Unspeakable


def times_out_itself() -> None:
    raise TimeoutError("the server is slow")


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("function", "content"),
    [
        (fails, "Error: ZeroDivisionError: division by zero"),
        (exits, "Error: SystemExit: 3"),
        (interrupts, "Error: KeyboardInterrupt"),
        (cancels, "Error: CancelledError"),
        (stops, "StopIteration"),
        (speaks, "Error: the city is unknown"),
        (unspeakable, "Error: Unspeakable"),
        (times_out_itself, "Error: TimeoutError: the server is slow"),
    ],
)
def test_an_exception_is_an_observation(function: Any, content: str, is_async: bool) -> None:
    async def f() -> None:
        function()

    def g() -> None:
        function()

    with Toolbox(f if is_async else g, tool(name="fine")(lambda: "fine")) as toolbox:
        result = toolbox.call(ToolCall("f" if is_async else "g"))
        assert result.is_error
        assert content in result.content
        assert toolbox.call(ToolCall("fine")).content == "fine"


def test_a_task_that_exits_does_not_end_the_others() -> None:
    async def spawns() -> str:
        asyncio.get_running_loop().create_task(quits())
        await asyncio.sleep(0.05)
        return "still here"

    async def quits() -> None:
        raise SystemExit(1)

    assert observe(spawns).content == "still here"


def test_wrong_arguments_never_reach_the_function() -> None:
    def f(n: int) -> None:
        raise AssertionError("called")

    result = observe(f, {"n": "x"})
    assert result.is_error
    assert result.content.startswith("Error: n: Input should be a valid integer")


def test_a_name_that_does_not_exist_is_answered_with_those_that_do() -> None:
    with Toolbox(fails, exits) as toolbox:
        result = toolbox.call(ToolCall("fail"))
    assert result.content == "Error: there is no tool 'fail'. The tools are: fails, exits"
    assert result.is_error


def test_timeouts() -> None:
    release = threading.Event()

    @tool(timeout=0.05)
    def hangs() -> None:
        release.wait(30)

    @tool(timeout=0.05)
    async def sleeps() -> None:
        await asyncio.sleep(30)

    for slow in (hangs, sleeps):
        result = observe(slow)
        assert result.is_error
        assert result.content == "Error: no result within 0.05 seconds"
        assert result.seconds < 2
    release.set()


def test_a_coroutine_that_blocks_the_loop_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatglm3.tools.toolbox.GRACE", 0.2)
    release = threading.Event()

    @tool(timeout=0.05)
    async def blocks() -> None:
        release.wait(30)

    with Toolbox(blocks, tool(name="fine")(lambda: "fine")) as toolbox:
        assert "does not return" in toolbox.call(ToolCall("blocks")).content
        assert toolbox.call(ToolCall("fine")).content == "fine"
        release.set()


def test_several_calls_run_at_the_same_time() -> None:
    together = threading.Barrier(3, timeout=5)

    def meet(n: int) -> int:
        together.wait()
        return n

    async def ameet(n: int) -> int:
        await asyncio.to_thread(together.wait)
        return n

    with Toolbox(meet, ameet) as toolbox:
        calls = [ToolCall("meet", {"n": 0}), ToolCall("ameet", {"n": 1}), ToolCall("meet", {"n": 2})]
        results = sorted(toolbox.run(calls), key=lambda result: result.index)
    assert [result.content for result in results] == ["0", "1", "2"]


def test_closing_the_results_cancels_what_runs() -> None:
    happened: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0.01)
            happened.append("cleaned up")

    def hangs() -> None:
        time.sleep(1)
        happened.append("thread ended")

    with Toolbox(waits, hangs, tool(name="fine")(lambda: "fine")) as toolbox:
        running = toolbox.run([ToolCall("fine"), ToolCall("waits"), ToolCall("hangs")])
        assert next(running).content == "fine"
        start = time.monotonic()
        running.close()
        assert time.monotonic() - start < 0.8
        assert happened == ["cleaned up"]


def test_ctrl_c_reaches_the_program_while_a_tool_hangs() -> None:
    """In a program of its own: SIGINT while a tool runs, which then ends in time with nothing left."""
    program = """
import os, signal, threading, time
from chatglm3.tools import Toolbox
from chatglm3.prompt import ToolCall
def hangs():
    time.sleep(60)
toolbox = Toolbox(hangs, "shell")
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
start = time.monotonic()
try:
    list(toolbox.run([ToolCall("hangs"), ToolCall("shell", {"command": "sleep 61.25"})]))
except KeyboardInterrupt:
    print(time.monotonic() - start < 5, os.system("pgrep -f '^sleep 61[.]25'"), flush=True)
"""
    start = time.monotonic()
    done = finished(program)
    assert done.stdout.splitlines() == ["True 256"], done.stderr  # 256: pgrep finds nothing
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 15


def test_approval() -> None:
    asked: list[ToolCall] = []
    ran: list[str] = []

    def remove(path: str) -> None:
        ran.append(path)

    delete = tool(name="delete", needs_approval=True)(remove)
    call = ToolCall("delete", {"path": "x"})

    def refuse(call: ToolCall) -> bool:
        asked.append(call)
        return False

    with Toolbox(delete, tool(name="look")(lambda: "seen")) as toolbox:
        result = toolbox.call(call, approve=refuse)
        assert (result.is_error, ran, asked) == (True, [], [call])
        assert "does not allow" in result.content
        assert toolbox.call(ToolCall("look"), approve=refuse).content == "seen"
        assert not toolbox.call(call, approve=lambda _: True).is_error
        assert not toolbox.call(call).is_error
    assert ran == ["x", "x"]


def test_definitions_without_code_are_left_to_the_caller() -> None:
    with Toolbox(DEFINITION, fails) as toolbox:
        assert not toolbox.answers("get_stock")
        assert toolbox.answers("fails")
        assert toolbox.answers("no such tool")
        assert not toolbox.answers(INTERPRETER)
        assert "definition without code" in toolbox.call(ToolCall("get_stock")).content
    assert not Toolbox(DEFINITION).runs_anything
    assert not Toolbox(DEFINITION).answers("no such tool")
    with pytest.raises(ToolError, match="definition without code"):
        Tool.from_definition(DEFINITION)()


def test_the_interpreter_is_no_definition() -> None:
    run = Tool({"name": INTERPRETER}, lambda code: f"ran {code}")
    with Toolbox(fails, interpreter=run) as toolbox:
        assert [definition["name"] for definition in toolbox.definitions] == ["fails"]
        assert toolbox.answers(INTERPRETER)
        assert toolbox.call(ToolCall(INTERPRETER, {"code": "1"})).content == "ran 1"


def test_two_tools_of_one_name_are_refused_and_both_named() -> None:
    with pytest.raises(
        ToolError, match=r"two tools are called 'get_stock': one of the program, one of the function.*rename"
    ):
        Toolbox(DEFINITION, tool(name="get_stock")(fails))
    with pytest.raises(ToolError, match="two tools"):
        Toolbox(Toolbox(fails), fails)


@pytest.mark.parametrize(
    ("sources", "error"),
    [
        ([3], ToolError),
        ([{"description": "no name"}], InvalidMessageError),
        (["no-such-tool"], ToolError),
    ],
)
def test_sources_that_are_none(sources: list[Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Toolbox(*sources)


def test_a_decorated_function_is_still_a_function() -> None:
    @tool
    def double(n: int) -> int:
        """Twice n."""
        return 2 * n

    assert double(4) == 8


def test_a_dropped_toolbox_ends_its_thread() -> None:
    toolbox = Toolbox(tool(name="fine")(lambda: "fine"))
    toolbox.call(ToolCall("fine"))
    assert "chatglm3-tools" in {thread.name for thread in threads()}
    del toolbox
    gc.collect()


def test_a_closed_toolbox_says_so() -> None:
    inner = Toolbox(tool(name="fine")(lambda: "fine"), timeout=math.inf)
    assert inner.call(ToolCall("fine")).content == "fine"
    inner.close()
    inner.close()
    with pytest.raises(ToolError, match="has been closed"):
        inner.call(ToolCall("fine"))


def test_many_threads_may_call_at_once() -> None:
    with Toolbox(tool(name="double")(lambda n: 2 * n)) as toolbox, ThreadPoolExecutor(8) as pool:
        calls = [ToolCall("double", {"n": n}) for n in range(64)]
        contents = [result.content for result in pool.map(toolbox.call, calls)]
    assert contents == [str(2 * n) for n in range(64)]


def test_a_program_ends_though_a_tool_hangs() -> None:
    program = """
import time
from chatglm3.tools import Toolbox, tool
from chatglm3.prompt import ToolCall
@tool(timeout=0.1)
def hangs():
    time.sleep(60)
print(Toolbox(hangs).call(ToolCall("hangs")).content)
"""
    done = finished(program)
    assert (done.stdout, done.returncode) == ("Error: no result within 0.1 seconds\n", 0), done.stderr


def test_tools_need_neither_torch_nor_pydantic_to_be_imported() -> None:
    program = """
import sys
sys.modules["pydantic"] = None
from chatglm3.tools import Toolbox, tool
from chatglm3.errors import ToolError
assert Toolbox({"name": "x"}).definitions
try:
    tool(print)
except ToolError as error:
    print(error)
print("torch" in sys.modules)
"""
    done = finished(program)
    assert "pip install 'chatglm3[tools]'" in done.stdout, done.stderr
    assert done.stdout.endswith("False\n")


def test_json_of_a_result_is_json() -> None:
    assert json.loads(returning({"a": [1, {"b": "c"}]})) == {"a": [1, {"b": "c"}]}
