"""MCP servers: in this process, started as a program, and over HTTP on this machine."""

from __future__ import annotations

import gc
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Image, exceptions
from mcp_types import ToolAnnotations

from chatglm3.errors import ToolError
from chatglm3.prompt import ToolCall
from chatglm3.tools import McpServer, Toolbox, ToolResult

# A server as people write them without any library, of the protocol's first versions; it starts at once.
SERVER = """
import json, os, sys
def schema(**types):
    return {"type": "object", "properties": {name: {"type": t} for name, t in types.items()}}
TOOLS = [
    {"name": "add", "description": "Add.", "inputSchema": schema(a="integer", b="integer")},
    {"name": "pid", "inputSchema": schema()},
    {"name": "environment", "inputSchema": schema(name="string")},
    {"name": "die", "inputSchema": schema()},
]
def answer(method, params):
    if method == "initialize":
        return {
            "protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}},
            "serverInfo": {"name": "shop", "version": "1"},
        }
    if method == "tools/list":
        return {"tools": TOOLS}
    name, given = params["name"], params["arguments"]
    if name == "die":
        os._exit(1)
    text = {
        "add": lambda: str(given["a"] + given["b"]),
        "pid": lambda: str(os.getpid()),
        "environment": lambda: os.environ.get(given["name"], "not set"),
    }[name]()
    return {"content": [{"type": "text", "text": text}]}
for line in sys.stdin:
    request = json.loads(line)
    if "id" in request:
        reply = {"jsonrpc": "2.0", "id": request["id"]}
        if request["method"] in ("initialize", "tools/list", "tools/call"):
            reply["result"] = answer(request["method"], request.get("params", {}))
        else:
            reply["error"] = {"code": -32601, "message": "unknown"}
        print(json.dumps(reply), flush=True)
"""


def in_process() -> McpServer:
    server = MCPServer("shop", log_level="ERROR")

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def price(item: str, count: int | None = None) -> dict[str, Any]:
        """The price of an item."""
        return {"item": item, "price": 3 * (count or 1)}

    @server.tool()
    def picture() -> Image:
        """A picture."""
        return Image(data=b"\x89PNG", format="png")

    @server.tool()
    def fails() -> str:
        """Fail."""
        raise exceptions.ToolError("out of stock")

    return McpServer("shop", in_process=server)


def finished(program: str) -> subprocess.CompletedProcess[str]:
    """A Python program of its own, when it has ended."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("chatglm3")]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "server.py"
    path.write_text(SERVER, encoding="utf-8")
    return path


def call(toolbox: Toolbox, name: str, /, **arguments: Any) -> ToolResult:
    return toolbox.call(ToolCall(name, arguments))


def test_a_server_in_this_process() -> None:
    with Toolbox(in_process()) as toolbox:
        assert toolbox["price"].definition == {
            "name": "price",
            "description": "The price of an item.",
            "parameters": {
                "type": "object",
                "properties": {"item": {"type": "string"}, "count": {"type": "integer"}},
                "required": ["item"],
            },
        }
        assert json.loads(call(toolbox, "price", item="tea", count=2).content) == {"item": "tea", "price": 6}
        picture = call(toolbox, "picture")
        assert [(image.data, image.mime_type) for image in picture.images] == [(b"\x89PNG", "image/png")]
        assert "image" in picture.content
        for wrong in (call(toolbox, "fails"), call(toolbox, "price", thing="tea")):
            assert wrong.is_error
            assert wrong.content.startswith("Error: ")
        assert "out of stock" in call(toolbox, "fails").content
        assert [tool.name for tool in toolbox if tool.needs_approval] == ["picture", "fails"]
    assert threads() == []


def test_a_call_that_takes_too_long_is_cancelled_there_as_well(caplog: pytest.LogCaptureFixture) -> None:
    happened: list[str] = []
    server = MCPServer("slow", log_level="ERROR")

    @server.tool()
    async def waits() -> str:
        """Wait."""
        try:
            await anyio.sleep(60)
        except BaseException:
            happened.append("cancelled")
            raise
        return ""

    @server.tool()
    def quick() -> str:
        """Answer."""
        return "quick"

    with Toolbox(McpServer("slow", in_process=server), timeout=0.2) as toolbox:
        assert call(toolbox, "waits").content == "Error: no result within 0.2 seconds"
        assert call(toolbox, "quick").content == "quick"
    assert happened == ["cancelled"]
    assert [record for record in caplog.records if record.name == "asyncio"] == []
    closed = toolbox.call(ToolCall("no such tool"))
    assert closed.is_error


def test_a_program(program: Path) -> None:
    server = McpServer("shop", command=sys.executable, args=(str(program),), env={"SHOP_KEY": "k"})
    with Toolbox(server) as toolbox:
        assert call(toolbox, "add", a=2, b=1).content == "3"
        assert call(toolbox, "environment", name="SHOP_KEY").content == "k"
        assert call(toolbox, "environment", name="PYTEST_CURRENT_TEST").content == "not set"
        pid = call(toolbox, "pid").content
        assert Path(f"/proc/{pid}").exists() or sys.platform != "linux"
    assert not Path(f"/proc/{pid}").exists()
    assert threads() == []


def test_a_program_that_dies_is_an_observation_and_started_again(program: Path) -> None:
    with Toolbox(McpServer.parse(f"{sys.executable} {program}"), timeout=20) as toolbox:
        first = call(toolbox, "pid").content
        died = call(toolbox, "die")
        assert died.is_error
        assert died.content.endswith("Connection closed")
        second = call(toolbox, "pid").content
        assert second.isdigit()
        assert second != first
        program.unlink()
        assert call(toolbox, "die").is_error
        assert "cannot be used" in call(toolbox, "pid").content
    assert threads() == []


def test_a_dropped_toolbox_ends_its_program(program: Path) -> None:
    toolbox = Toolbox(McpServer.parse(f"{sys.executable} {program}"))
    pid = call(toolbox, "pid").content
    del toolbox
    gc.collect()
    assert not Path(f"/proc/{pid}").exists()


def test_a_program_ends_with_its_parent(program: Path) -> None:
    """Also with a parent that does not close its toolbox, and with one that is killed."""
    for ending in ("pass", "os.kill(os.getpid(), 9)"):
        code = f"""
import os, sys
from chatglm3.tools import McpServer, Toolbox
from chatglm3.prompt import ToolCall
toolbox = Toolbox(McpServer("shop", command=sys.executable, args=({str(program)!r},)))
print(toolbox.call(ToolCall("pid")).content, flush=True)
{ending}
"""
        done = finished(code)
        pid = done.stdout.strip()
        assert pid.isdigit(), done.stderr
        end = time.monotonic() + 5
        while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
            time.sleep(0.02)
        assert not Path(f"/proc/{pid}").exists()


@pytest.fixture
def url() -> Iterator[str]:
    server = MCPServer("web", log_level="ERROR")

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    listener = socket.create_server(("127.0.0.1", 0))
    app = uvicorn.Server(uvicorn.Config(server.streamable_http_app(), log_level="error"))
    thread = threading.Thread(target=app.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    app.should_exit = True
    thread.join()
    listener.close()


def test_a_server_over_http(url: str) -> None:
    with Toolbox(McpServer.parse(url)) as toolbox:
        assert call(toolbox, "add", a=2, b=2).content == "4"
    assert threads() == []


def test_a_file_of_servers(program: Path, tmp_path: Path, url: str) -> None:
    config = {"mcpServers": {"shop": {"command": sys.executable, "args": [str(program)]}}}
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    with Toolbox(path) as toolbox:
        assert call(toolbox, "add", a=1, b=1).content == "2"
    config["mcpServers"]["web"] = {"type": "http", "url": url}
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ToolError, match=r"called 'add': one of the MCP server 'shop', one of .* 'web'"):
        Toolbox(path)
    assert threads() == []


@pytest.mark.parametrize(
    ("server", "complaint"),
    [
        (McpServer.parse("no-such-program --x"), "'no-such-program --x' cannot be used.*No such file"),
        (McpServer.parse("http://127.0.0.1:1/mcp"), "cannot be used"),
        (
            McpServer("x", command=sys.executable, args=("-c", "import sys; sys.exit('no key given')")),
            "(?s)cannot be used.*no key given",
        ),
        (
            McpServer("x", command="sleep", args=("30",), connect_timeout=0.3),
            "cannot be used: it does not answer",
        ),
    ],
)
def test_servers_that_cannot_be_used(server: McpServer, complaint: str) -> None:
    with pytest.raises(ToolError, match=complaint):
        Toolbox(server)
    assert threads() == []


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({}, "needs either a command or a url"),
        ({"command": "a", "url": "b"}, "needs either"),
        ({"command": "a", "alwaysAllow": []}, "unknown field 'alwaysAllow'"),
        ({"type": "sse", "url": "b"}, "has the type 'sse'"),
        ("a", "must be an object"),
        ({"command": "a", "args": "-x -y"}, "has args = '-x -y'; .* args is a list"),
        ({"command": "a", "env": ["A=b"]}, "has env = "),
        ({"command": ["a"]}, "has command = "),
    ],
)
def test_entries_that_describe_no_server(entry: Any, complaint: str) -> None:
    with pytest.raises(ToolError, match=complaint):
        McpServer.from_config("x", entry)


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(ToolError, match=r"pip install 'chatglm3\[mcp\]'"):
        Toolbox(McpServer.parse("anything"))
