"""Running coroutines, and functions that may never return, beside a program that is not async."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from chatglm3.errors import ToolError

T = TypeVar("T")

GRACE = 5.0
"""Seconds for what is cancelled to clean up."""


class Job(Generic[T]):
    """A coroutine that runs on an EventLoopThread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> None:
        self.future: concurrent.futures.Future[T] = concurrent.futures.Future()
        """Done when the coroutine has ended, its clean-up after a cancellation included."""
        self._loop = loop
        self._coroutine = coroutine
        self._task: asyncio.Task[T] | None = None
        loop.call_soon_threadsafe(self._start)

    def cancel(self) -> concurrent.futures.Future[T]:
        """Raise CancelledError in the coroutine; returns `future`, to wait for."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._cancel)
        return self.future

    def _start(self) -> None:
        self._task = self._loop.create_task(self._coroutine)
        self._task.add_done_callback(self._finish)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _finish(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.future.cancel()
        if not self.future.set_running_or_notify_cancel():
            return  # also if whoever waited for the future has cancelled it
        if error := task.exception():
            self.future.set_exception(error)
        else:
            self.future.set_result(task.result())


class EventLoopThread:
    """An event loop in a daemon thread of its own."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run, args=(self._loop,), name=name, daemon=True)
        self._thread.start()

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Job[T]:
        """Run a coroutine on the loop. Raises ToolError if the loop has been closed."""
        try:
            return Job(self._loop, coroutine)
        except RuntimeError:
            coroutine.close()
            raise ToolError("what runs this tool has been closed") from None

    def is_responsive(self, seconds: float = 1.0) -> bool:
        """Whether the loop answers: not if a coroutine blocks it."""
        answered = threading.Event()
        self._loop.call_soon_threadsafe(answered.set)
        return answered.wait(seconds)

    def leave(self) -> None:
        """Cancel what runs and let the thread end by itself, if it ever can."""
        with contextlib.suppress(RuntimeError):  # closed before
            self._loop.call_soon_threadsafe(lambda: self._loop.create_task(_stop(self._loop)))

    def close(self) -> None:
        """Cancel what runs, let it clean up, and end the thread; one that is blocked is left behind."""
        self.leave()
        with contextlib.suppress(RuntimeError):  # called from this very thread, by the garbage collector
            self._thread.join(GRACE + 1)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    while True:
        # A task that raises SystemExit or KeyboardInterrupt ends run_forever; it must not end the others.
        with contextlib.suppress(SystemExit, KeyboardInterrupt):
            loop.run_forever()
            break
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


async def _stop(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=GRACE)
    loop.stop()


async def in_thread(function: Callable[[], T], name: str) -> T:
    """Await a function that runs in a daemon thread of its own; cancelled, it is left to itself.

    Unlike an executor's, such a thread does not keep the program from ending. Whatever the function raises,
    SystemExit included, is raised here.
    """
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    value: T
    error: BaseException | None = None

    def work() -> None:
        nonlocal value, error
        try:
            value = context.run(function)
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # nobody waits, and the loop is closed
            loop.call_soon_threadsafe(done.set)

    context = contextvars.copy_context()
    threading.Thread(target=work, name=name, daemon=True).start()
    await done.wait()
    if error is not None:
        raise error
    return value
