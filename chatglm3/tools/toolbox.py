"""Tools from anywhere, under one roof: their definitions for the model, and the running of its calls."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

from chatglm3.errors import ToolError
from chatglm3.prompt import INTERPRETER, ToolCall
from chatglm3.tools.background import GRACE, EventLoopThread, Job, in_thread
from chatglm3.tools.function import Tool, tool
from chatglm3.tools.mcp import McpConnection, McpServer
from chatglm3.tools.output import ToolOutput, ToolResult, cut, to_output

logger = logging.getLogger(__name__)

Source: TypeAlias = "Tool | Callable[..., Any] | Mapping[str, Any] | McpServer | Toolbox | str | Path"
"""A tool; a function; a definition without code; an MCP server; all tools of another toolbox; the name of a
built-in tool, "builtin" for those that only look things up and compute, or a file (see `files.load_file`)."""

Approve: TypeAlias = Callable[[ToolCall], bool]
"""Asked, in the caller's thread, before a tool that needs approval is run."""


class Toolbox:
    """Tools by name, ready to be called.

    timeout: seconds for a call of a tool that sets none itself.
    max_chars: results are cut at this length, visibly.
    interpreter: the tool that runs the code which a model writes for its interpreter; it gets `code`, and is
        not among the definitions.

    A context manager: leaving it ends MCP servers and whatever still runs, as does the end of the program.
    Raises ToolError for a source that cannot be read, and for two tools of one name.
    """

    def __init__(
        self,
        *sources: Source,
        timeout: float = 60.0,
        max_chars: int = 4000,
        interpreter: Tool | None = None,
    ) -> None:
        if not timeout > 0 or max_chars < 1:
            raise ToolError(f"timeout={timeout} and max_chars={max_chars} must be above 0")
        self.timeout = timeout
        self.max_chars = max_chars
        self.interpreter = interpreter
        self._tools: dict[str, Tool] = {}
        self._resources = _Resources()
        self.close = weakref.finalize(self, self._resources.close)
        """End everything that was started for this toolbox. Calling it again does nothing."""
        try:
            for source in sources:
                for item in self._from_source(source):
                    self._add(item)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Toolbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    def __len__(self) -> int:
        return len(self._tools)

    def __contains__(self, name: object) -> bool:
        return name in self._tools

    def __getitem__(self, name: str) -> Tool:
        return self._tools[name]

    @property
    def definitions(self) -> list[dict[str, Any]]:
        """What the model is told, in the order in which the tools were given."""
        return [tool.definition for tool in self]

    @property
    def runs_anything(self) -> bool:
        """Whether any tool here has code."""
        return self.interpreter is not None or any(tool.function is not None for tool in self)

    def answers(self, name: str) -> bool:
        """Whether calls of this name are answered here: by running a tool, or by saying that there is none.

        They are not if the tool is a definition without code, and if nothing here has code.
        """
        found = self._find(name)
        return found.function is not None if found else self.runs_anything and name != INTERPRETER

    def call(self, call: ToolCall, *, approve: Approve | None = None) -> ToolResult:
        """Run one call and wait for its result. Never raises for what the tool does."""
        return next(self.run([call], approve=approve))

    def run(self, calls: Sequence[ToolCall], *, approve: Approve | None = None) -> Generator[ToolResult]:
        """Run all calls at once and yield each result as it comes; `index` is the place in `calls`.

        Whatever goes wrong is a result with `is_error`: a name that does not exist, arguments that do not
        fit, an exception, a timeout. Closing the iterator, or an exception such as KeyboardInterrupt while
        it waits, cancels what still runs: coroutines clean up, functions in threads are left to themselves.
        """
        accepted: dict[int, Tool] = {}
        for index, call in enumerate(calls):
            found = self._find(call.name)
            if found is None:
                names = ", ".join(tool.name for tool in self) or "none"
                text = f"Error: there is no tool {call.name!r}. The tools are: {names}"
                yield ToolResult(index, call.name, call, text, is_error=True)
            elif found.function is None:
                text = f"Error: {call.name!r} is a definition without code, which is not run here"
                yield ToolResult(index, call.name, call, text, is_error=True)
            elif found.needs_approval and approve is not None and not approve(call):
                text = "Error: the user does not allow this call. Do not try it again"
                yield ToolResult(index, call.name, call, text, is_error=True)
            else:
                accepted[index] = found
        if accepted:
            yield from self._run(calls, accepted)

    def _run(self, calls: Sequence[ToolCall], tools: Mapping[int, Tool]) -> Generator[ToolResult]:
        """Run the calls for which there are tools."""
        jobs: dict[int, Job[tuple[ToolOutput, float]]] = {}
        finished: queue.SimpleQueue[int] = queue.SimpleQueue()
        started = time.monotonic()
        # Timeouts are kept by the event loop. This one is for a coroutine that blocks it, or ignores them.
        deadline = started + GRACE + max(tool.timeout or self.timeout for tool in tools.values())
        loop = self._resources.loop()
        try:
            for index, tool in tools.items():
                running = _timed_output(tool, calls[index], tool.timeout or self.timeout)
                jobs[index] = loop.start(running)
                jobs[index].future.add_done_callback(lambda _, index=index: finished.put(index))  # type: ignore[misc]
            waiting = set(jobs)
            while waiting:
                try:
                    left = min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)
                    index = finished.get(timeout=left)
                except queue.Empty:
                    break
                waiting.discard(index)
                output, seconds = jobs[index].future.result()
                yield ToolResult(
                    index,
                    calls[index].name,
                    calls[index],
                    cut(output.content, self.max_chars),
                    seconds,
                    output.is_error,
                    output.images,
                )
            for index in sorted(waiting):
                text = "Error: the tool does not return and cannot be interrupted"
                seconds = time.monotonic() - started
                yield ToolResult(index, calls[index].name, calls[index], text, seconds, is_error=True)
        finally:
            self._resources.end(job for job in jobs.values() if not job.future.done())

    def _find(self, name: str) -> Tool | None:
        return self._tools.get(name) or (self.interpreter if name == INTERPRETER else None)

    def _add(self, item: Tool) -> None:
        if item.name in self._tools:
            raise ToolError(
                f"two tools are called {item.name!r}: one of {self._tools[item.name].source}, one of "
                f"{item.source}; rename one, or leave it out"
            )
        self._tools[item.name] = item

    def _from_source(self, source: Source) -> Iterable[Tool]:
        match source:
            case Tool() | Toolbox():
                return [source] if isinstance(source, Tool) else list(source)
            case Mapping():
                return [Tool.from_definition(source)]
            case McpServer():
                return self._resources.connect(source)
            case str() | Path():
                from chatglm3.tools.files import from_name

                return [item for found in from_name(source) for item in self._from_source(found)]
            case _ if callable(source):
                return [tool(source)]
        raise ToolError(
            f"a source of tools is a function, a definition, a name or a file, not {source!r:.80}"
        )


class _Resources:
    """What a toolbox has started; it does not refer to the toolbox, so that this can be collected."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_closed = False
        self._loop: EventLoopThread | None = None
        self._connections: list[McpConnection] = []

    def loop(self) -> EventLoopThread:
        with self._lock:
            if self._is_closed:
                raise ToolError("the toolbox has been closed")
            if self._loop is None:
                self._loop = EventLoopThread("chatglm3-tools")
            return self._loop

    def end(self, jobs: Iterable[Job[Any]]) -> None:
        """Cancel jobs and let them clean up. A loop that is blocked is left behind, for others to run."""
        futures = [job.cancel() for job in jobs]
        late = concurrent.futures.wait(futures, timeout=GRACE).not_done
        if late and self._loop is not None and not self._loop.is_responsive():
            logger.warning("an async tool blocks its event loop; use await, or make it a plain function")
            self._loop.leave()
            self._loop = None

    def connect(self, server: McpServer) -> list[Tool]:
        connection = McpConnection(server)
        self._connections.append(connection)
        return connection.tools

    def close(self) -> None:
        self._is_closed = True
        for connection in self._connections:
            connection.close()
        if self._loop is not None:
            self._loop.close()
        self._connections, self._loop = [], None


async def _timed_output(tool: Tool, call: ToolCall, timeout: float) -> tuple[ToolOutput, float]:
    """Run one call; only a cancellation is raised."""
    started = time.monotonic()
    output = await _output(tool, call, timeout)
    return output, time.monotonic() - started


async def _output(tool: Tool, call: ToolCall, timeout: float) -> ToolOutput:
    try:
        async with asyncio.timeout(timeout) as limit:
            return await _call(tool, call)
    except BaseException as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise
        if isinstance(error, TimeoutError) and limit.expired():
            return ToolOutput(f"Error: no result within {timeout:g} seconds", is_error=True)
        logger.info("the tool %s failed", tool.name, exc_info=error)
        return ToolOutput(f"Error: {_reason(error)}", is_error=True)


async def _call(tool: Tool, call: ToolCall) -> ToolOutput:
    function = tool.function
    assert function is not None
    try:
        arguments = tool.validate(call.arguments)
    except ValueError as error:
        raise ToolError(str(error)) from None

    def call_and_convert() -> Any:
        value = function(**arguments)
        return value if inspect.isawaitable(value) else to_output(value)

    name = f"chatglm3-tool {tool.name}"
    # Results are converted in a thread as well: they run the code of their own classes.
    if inspect.iscoroutinefunction(function):
        value = await function(**arguments)
    else:
        value = await in_thread(call_and_convert, name)
        if isinstance(value, ToolOutput):
            return value
        value = await value
    return await in_thread(lambda: to_output(value), name)


def _reason(error: BaseException) -> str:
    """An exception in one line; str() of it may fail as well."""
    try:
        text = str(error)
    except Exception:
        text = ""
    if isinstance(error, ToolError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
