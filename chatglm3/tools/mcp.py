"""Tools of MCP servers (Model Context Protocol): programs that are started here, or that listen elsewhere."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import contextlib
import shlex
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from chatglm3.errors import ToolError
from chatglm3.tools.background import GRACE, EventLoopThread
from chatglm3.tools.function import Tool
from chatglm3.tools.output import Image, ToolOutput
from chatglm3.tools.simplify import simplified

_MOST_PAGES = 100  # of a server's list of tools


@dataclass(frozen=True)
class McpServer:
    """Where a server is: exactly one of `command`, `url` and `in_process` is given."""

    name: str
    command: str | None = None
    """A program that speaks MCP on its standard input and output."""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the few variables that such a program gets: PATH, HOME, and their like."""
    cwd: str | None = None
    url: str | None = None
    """Of a server that speaks streamable HTTP."""
    headers: Mapping[str, str] = field(default_factory=dict)
    in_process: Any = None
    """A `mcp.server.MCPServer` of this program."""
    connect_timeout: float = 30.0

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.command, self.url, self.in_process)) != 1:
            raise ToolError(f"the MCP server {self.name!r} needs either a command or a url")

    @classmethod
    def parse(cls, text: str) -> McpServer:
        """A server from one line: a URL, or a command with its arguments."""
        if text.startswith(("http://", "https://")):
            return cls(text, url=text)
        try:
            command, *args = shlex.split(text)
        except ValueError:
            raise ToolError(f"an MCP server is a command or a URL, not {text!r}") from None
        return cls(text, command=command, args=tuple(args))

    @classmethod
    def from_config(cls, name: str, entry: Any) -> McpServer:
        """An entry of the `mcpServers` object that MCP programs share."""
        known = {"type", "command", "args", "env", "cwd", "url", "headers"}
        if not isinstance(entry, Mapping):
            raise ToolError(f"the MCP server {name!r} must be an object, not {entry!r:.80}")
        if unknown := entry.keys() - known:
            raise ToolError(
                f"the MCP server {name!r} has the unknown field {sorted(unknown)[0]!r}; known are "
                + ", ".join(sorted(known))
            )
        if (kind := entry.get("type", "stdio")) not in ("stdio", "http", "streamable-http", "streamableHttp"):
            raise ToolError(f"the MCP server {name!r} has the type {kind!r}; known are 'stdio' and 'http'")
        shapes: dict[str, type | tuple[type, ...]] = {"args": list, "env": Mapping, "headers": Mapping}
        for field_name in entry:
            if not isinstance(entry[field_name], shapes.get(field_name, str)):
                raise ToolError(
                    f"the MCP server {name!r} has {field_name} = {entry[field_name]!r:.80}; "
                    "command, url, cwd and type are texts, args is a list, env and headers are objects"
                )
        return cls(
            name,
            command=entry.get("command"),
            args=tuple(map(str, entry.get("args", ()))),
            env={key: str(value) for key, value in entry.get("env", {}).items()},
            cwd=entry.get("cwd"),
            url=entry.get("url"),
            headers=entry.get("headers", {}),
        )


class McpConnection:
    """An open session with a server, on a thread of its own. Raises ToolError if it cannot be opened."""

    def __init__(self, server: McpServer) -> None:
        try:
            import mcp as _  # noqa: F401 - half a second, and needed from here on
        except ModuleNotFoundError:
            raise ToolError("MCP servers need the package 'mcp': pip install 'chatglm3[mcp]'") from None
        self._server = server
        self._client: Any = None
        self._session: asyncio.Task[None] | None = None
        self._leave = asyncio.Event()
        self._opening = asyncio.Lock()
        self._is_lost = False
        self._loop = EventLoopThread(f"chatglm3-mcp {server.name}")
        try:
            self.tools: list[Tool] = self._loop.start(self._open()).future.result()
        except BaseException as error:
            self.close()
            if isinstance(error, Exception):
                raise ToolError(
                    str(error) if isinstance(error, ToolError) else self._complaint(error)
                ) from None
            raise

    def close(self) -> None:
        """End the session, and the server if it was started here."""
        with contextlib.suppress(ToolError):  # closed before
            concurrent.futures.wait([self._loop.start(self._end()).future], timeout=2 * GRACE)
        self._loop.close()

    async def _open(self) -> list[Tool]:
        """Begin a session and list its tools."""
        self._leave.clear()
        ready = asyncio.Event()
        self._session = asyncio.create_task(self._serve(ready))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({self._session, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._session.done():
            await self._session
        async with asyncio.timeout(self._server.connect_timeout):
            return [self._tool(item) for item in await self._list()]

    async def _end(self) -> None:
        self._leave.set()
        if self._session is not None:
            await asyncio.wait({self._session})

    async def _serve(self, ready: asyncio.Event) -> None:
        """The life of a session. One task enters and leaves it, as anyio's cancel scopes demand."""
        with tempfile.TemporaryFile("w+") as log:
            try:
                async with self._connected(log) as client:
                    self._client = client
                    ready.set()
                    await self._leave.wait()
            except Exception as error:
                raise ToolError(self._complaint(error) + _tail(log)) from None

    async def _call(self, name: str, arguments: dict[str, Any]) -> ToolOutput:
        """Call a tool; a server that has ended since the last call is started again."""
        from mcp import MCPError
        from mcp_types import CONNECTION_CLOSED

        async with self._opening:
            if self._is_lost:
                await self._end()
                await self._open()
                self._is_lost = False
        try:
            return _output(await self._client.call_tool(name, arguments))
        except MCPError as error:
            self._is_lost = self._is_lost or error.code == CONNECTION_CLOSED
            raise ToolError(f"the MCP server {self._server.name!r} says: {error.message}") from None

    def _complaint(self, error: Exception) -> str:
        return f"the MCP server {self._server.name!r} cannot be used: {_reason(error)}"

    @contextlib.asynccontextmanager
    async def _connected(self, log: IO[str]) -> AsyncIterator[Any]:
        import httpx2
        from mcp import Client, StdioServerParameters
        from mcp.client.stdio import stdio_client
        from mcp.client.streamable_http import streamable_http_client

        server = self._server
        async with contextlib.AsyncExitStack() as stack:
            transport: Any = server.in_process
            if server.command is not None:
                parameters = StdioServerParameters(
                    command=server.command, args=list(server.args), env=dict(server.env), cwd=server.cwd
                )
                transport = stdio_client(parameters, errlog=log)  # type: ignore[arg-type]
            elif server.url is not None:
                http = httpx2.AsyncClient(headers=dict(server.headers), timeout=httpx2.Timeout(30, read=300))
                await stack.enter_async_context(http)
                transport = streamable_http_client(server.url, http_client=http)
            async with asyncio.timeout(server.connect_timeout):
                client = await stack.enter_async_context(Client(transport))
            yield client

    async def _list(self) -> list[Any]:
        items: list[Any] = []
        cursor = None
        for _ in range(_MOST_PAGES):
            page = await self._client.list_tools(cursor=cursor)
            items += page.tools
            cursor = page.next_cursor
            if cursor is None:
                break
        return items

    def _tool(self, item: Any) -> Tool:
        read_only = item.annotations is not None and item.annotations.read_only_hint is True
        return Tool(
            {
                "name": item.name,
                "description": item.description or item.name,
                "parameters": simplified(item.input_schema),
            },
            self._caller(item.name),
            validate=lambda arguments: {"arguments": dict(arguments)},
            needs_approval=not read_only,
            source=f"the MCP server {self._server.name!r}",
        )

    def _caller(self, name: str) -> Callable[..., Any]:
        async def call(arguments: dict[str, Any]) -> ToolOutput:
            job = self._loop.start(self._call(name, arguments))
            try:
                return await asyncio.wrap_future(job.future)
            finally:
                job.cancel()

        return call


def _output(result: Any) -> ToolOutput:
    """A server's result: its texts for the model, its images for the reader."""
    texts: list[str] = []
    images: list[Image] = []
    for part in result.content:
        match part.type:
            case "text":
                texts.append(part.text)
            case "image":
                images.append(Image(base64.b64decode(part.data), part.mime_type))
                texts.append("[an image, which the user can see]")
            case "resource" if getattr(part.resource, "text", None) is not None:
                texts.append(part.resource.text)
            case "resource" | "resource_link":
                texts.append(f"[{getattr(part, 'resource', part).uri}]")
            case _:
                texts.append(f"[{part.type} that cannot be shown]")
    text = "\n".join(texts)
    if result.is_error:
        text = f"Error: {text or 'the server gives no reason'}"
    return ToolOutput(text, tuple(images), is_error=bool(result.is_error))


def _reason(error: BaseException) -> str:
    """The first real cause; task groups wrap it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, TimeoutError):
        return "it does not answer"
    return f"{type(error).__name__}: {error}"


def _tail(log: IO[str]) -> str:
    """The last words of a program that was started here."""
    log.seek(0)
    lines = log.read()[-2000:].strip().splitlines()[-5:]
    return "; it wrote:\n" + "\n".join(lines) if lines else ""
