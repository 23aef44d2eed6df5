"""The engine beside the event loop: one thread steps it, and tokens cross over once a step.

An Engine belongs to one thread. What the event loop wants of it (open a request, end one) is put into a queue
of functions, which the thread calls between two steps; what a step gives is handed to the event loop in one
call, however many requests it is for.
"""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

from chatglm3.engine import Engine, SamplingParams, Stats, TokenOutput
from chatglm3.server.errors import ApiError, internal
from chatglm3.server.metrics import Metrics

log = logging.getLogger(__name__)
T = TypeVar("T")

Prompt: TypeAlias = tuple[list[int], SamplingParams]
Arrival: TypeAlias = tuple[int, TokenOutput]
"""The number of the prompt within its submission, and what is new of one of its answers."""


_AT_ONCE = 8
"""Submissions that get their tokens before the event loop looks at its sockets again: each wakes a task that
writes to one, and a request that comes in meanwhile must not wait for hundreds of them."""


class Submission:
    """One or several prompts under way together. Belongs to the event loop.

    Close it when its outputs are no longer wanted; what still runs then ends before the next step.
    """

    def __init__(self, thread: EngineThread, prompts: Sequence[Prompt]) -> None:
        self.prompts = list(prompts)
        self.cached_tokens = 0
        """Prompt tokens that the prefix cache had; complete when each prompt has its first output."""
        self.waiting = set(range(len(self.prompts)))
        """Prompts without an output yet."""
        self._thread = thread
        self._open = {(p, i) for p, (_, params) in enumerate(self.prompts) for i in range(params.n)}
        self._arrived: list[Arrival] = []
        self._error: ApiError | None = None
        self._news = asyncio.Event()
        self._started = time.perf_counter()
        self._token_times: dict[tuple[int, int], float] = {}

    async def arrivals(self) -> list[Arrival]:
        """Wait for news, and take all there is. Empty when every answer has ended.

        Raises ApiError if the engine failed, or the server ends.
        """
        while not self._arrived:
            if self._error is not None:
                raise self._error
            if not self._open:
                return []
            self._news.clear()
            await self._news.wait()
        arrived, self._arrived = self._arrived, []
        return arrived

    def end(self, prompt: int, index: int) -> None:
        """End one answer: nothing more of it arrives."""
        if (prompt, index) in self._open:
            self._open.discard((prompt, index))
            self._thread.abort(self, prompt, index)
            self._settle()

    def close(self) -> None:
        """End all that is still open."""
        for prompt, index in sorted(self._open):
            self.end(prompt, index)

    def fail(self, error: ApiError) -> None:
        """End all that is still open with an error, which `arrivals` raises."""
        if self._open:
            self._error = error
            self.close()
        self._news.set()

    def receive(self, arrivals: Sequence[Arrival], now: float, metrics: Metrics) -> None:
        """Take what a step gave."""
        for prompt, output in arrivals:
            if prompt in self.waiting:
                self.waiting.discard(prompt)
                self.cached_tokens += output.cached_tokens or 0
                self._thread.begun(self, prompt, now - self._started)
            key = (prompt, output.index)
            if key not in self._open:
                continue
            if output.token is not None:
                before = self._token_times.get(key)
                if before is None:
                    metrics.first_token(now - self._started)
                else:
                    metrics.next_token(now - before)
                self._token_times[key] = now
            if output.finish_reason is not None:
                self._open.discard(key)
            self._arrived.append((prompt, output))
        self._settle()
        self._news.set()

    def _settle(self) -> None:
        """Leave the queue's books when nothing is open."""
        if not self._open:
            self._thread.ended(self)


@dataclass(eq=False)
class _Route:
    """Where outputs of an engine request go."""

    submission: Submission
    prompt: int
    open: int
    """Answers that have not ended."""


class EngineThread:
    """Runs an engine, takes submissions within the queue's bounds, and survives steps that fail.

    All methods but those with an underscore belong to the event loop in which `start` was called.
    """

    def __init__(self, engine: Engine, metrics: Metrics, *, max_queue: int, max_queue_tokens: int) -> None:
        self.engine = engine
        self.stats: Stats = engine.stats
        """As of the last step."""
        self.draining = False
        """Whether new submissions are refused because the server is about to end."""
        self._metrics = metrics
        self._max_queue = max_queue
        self._max_queue_tokens = max_queue_tokens
        self._submissions: set[Submission] = set()
        self._queued = 0
        self._queued_tokens = 0
        self._last_wait = 1.0
        self._open_jobs = 0
        self._undelivered: deque[tuple[Submission, list[Arrival], float]] = deque()
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        # Of the thread alone:
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._routes: dict[int, _Route] = {}
        self._request_ids: dict[tuple[Submission, int], int] = {}
        self._jobs: deque[tuple[Generator[None, None, Any], Future[Any]]] = deque()
        self._stopping = False

    def start(self) -> None:
        """Start the thread."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """End all submissions and the thread."""
        self.fail_all(ApiError(503, "the server was shut down before this request was done", code="shutdown"))
        self._commands.put(self._stop)
        assert self._thread is not None
        await asyncio.to_thread(self._thread.join)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def submit(self, prompts: Sequence[Prompt]) -> Submission:
        """Queue prompts, all or none.

        Raises ApiError with 429 if the queue is full, with 503 if the server is about to end, and
        InvalidParameterError or PromptTooLongError for a prompt that the engine cannot take.
        """
        if self.draining:
            raise ApiError(503, "the server is shutting down", code="shutdown", headers={"Retry-After": "5"})
        if not self.alive:
            raise ApiError(503, "the engine has stopped; the server must be restarted", code="engine_dead")
        prompts = [(self.engine.check_request(ids, params), params) for ids, params in prompts]
        answers = sum(params.n for _, params in prompts)
        tokens = sum(len(ids) for ids, _ in prompts)
        if answers > self._max_queue:
            message = f"the request asks for {answers} answers, and {self._max_queue} may wait; ask for fewer"
            raise ApiError(400, message, param="n", code="too_many_answers")
        # An empty queue takes prompts of any length: what it cannot take now it could not take later.
        if self._queued and (
            self._queued + answers > self._max_queue or self._queued_tokens + tokens > self._max_queue_tokens
        ):
            wait = min(max(math.ceil(self._last_wait), 1), 60)
            raise ApiError(
                429,
                f"the queue is full: {self._queued} answers with {self._queued_tokens} prompt tokens wait, "
                f"and {self._max_queue} with {self._max_queue_tokens} may; try again in {wait} s",
                code="queue_full",
                headers={"Retry-After": str(wait)},
            )
        submission = Submission(self, prompts)
        self._submissions.add(submission)
        self._idle.clear()
        self._queued += answers
        self._queued_tokens += tokens
        self._commands.put(partial(self._open, submission))
        return submission

    async def drained(self) -> None:
        """Wait until nothing is under way."""
        await self._idle.wait()

    def fail_all(self, error: ApiError) -> None:
        """End everything that is under way with an error."""
        for submission in list(self._submissions):
            submission.fail(error)

    async def between_steps(self, job: Generator[None, None, T]) -> T:
        """Run a job in the engine's thread, from one `yield` to the next between two steps.

        So work that is cut in slices can use the model without holding up the answers under way. Returns what
        the job returns; a caller that is cancelled ends it.
        """
        done: Future[T] = Future()
        self._open_jobs += 1
        self._idle.clear()
        self._commands.put(lambda: self._jobs.append((job, done)))
        try:
            return await asyncio.wrap_future(done)
        finally:
            self._open_jobs -= 1
            self._settle()

    # Called by submissions, in the event loop.

    def abort(self, submission: Submission, prompt: int, index: int) -> None:
        """End one answer before the next step."""
        self._commands.put(partial(self._abort, submission, prompt, index))

    def begun(self, submission: Submission, prompt: int, waited: float) -> None:
        """A prompt has left the queue."""
        ids, params = submission.prompts[prompt]
        self._queued -= params.n
        self._queued_tokens -= len(ids)
        self._last_wait = waited

    def ended(self, submission: Submission) -> None:
        """A submission has no open answer left."""
        if submission not in self._submissions:
            return
        self._submissions.discard(submission)
        for prompt in submission.waiting:
            ids, params = submission.prompts[prompt]
            self._queued -= params.n
            self._queued_tokens -= len(ids)
        submission.waiting.clear()
        self._settle()

    def _settle(self) -> None:
        if not self._submissions and not self._open_jobs:
            self._idle.set()

    # The thread.

    def _main(self) -> None:
        try:
            while not self._stopping:
                self._obey()
                if self._jobs:
                    self._work()
                if self.engine.has_work:
                    self._step()
        except Exception:
            log.exception("the engine's thread failed")
            self._call_loop(self.fail_all, internal())

    def _obey(self) -> None:
        """Do what the event loop asks; wait for it if there is nothing else to do."""
        may_wait = not (self.engine.has_work or self._jobs)
        try:
            while True:
                self._commands.get(block=may_wait)()
                may_wait = False
        except queue.Empty:
            pass

    def _stop(self) -> None:
        self._stopping = True

    def _open(self, submission: Submission) -> None:
        for number, (ids, params) in enumerate(submission.prompts):
            request_id = self.engine.submit(ids, params)
            self._routes[request_id] = _Route(submission, number, params.n)
            self._request_ids[submission, number] = request_id

    def _abort(self, submission: Submission, prompt: int, index: int) -> None:
        request_id = self._request_ids.get((submission, prompt))
        if request_id is not None:
            self.engine.abort(request_id, index)

    def _step(self) -> None:
        try:
            outputs = self.engine.step()
        except Exception:
            log.exception("a step of the engine failed; the requests that took part in it end")
            self._fail(self.engine.running or set(self._routes))
            return
        now = time.perf_counter()
        self.stats = self.engine.stats
        arrivals: dict[Submission, list[Arrival]] = {}
        for output in outputs:
            route = self._routes[output.request_id]
            arrivals.setdefault(route.submission, []).append((route.prompt, output))
            if output.finish_reason is not None:
                route.open -= 1
                if route.open == 0:
                    del self._routes[output.request_id]
                    del self._request_ids[route.submission, route.prompt]
        if arrivals:
            self._call_loop(self._deliver, arrivals, now)

    def _fail(self, request_ids: set[int]) -> None:
        for request_id in request_ids:
            self.engine.abort(request_id)
            self._call_loop(self._routes[request_id].submission.fail, internal())

    def _work(self) -> None:
        """One slice of the job whose turn it is."""
        job, done = self._jobs.popleft()
        if done.cancelled():
            job.close()
            return
        try:
            next(job)
        except StopIteration as end:
            if done.set_running_or_notify_cancel():
                done.set_result(end.value)
        except Exception as error:
            if done.set_running_or_notify_cancel():
                done.set_exception(error)
        else:
            self._jobs.append((job, done))

    # The event loop again.

    def _deliver(self, arrivals: dict[Submission, list[Arrival]], now: float) -> None:
        """Hand out what a step gave, a few submissions at a time."""
        idle = not self._undelivered
        self._undelivered.extend((submission, own, now) for submission, own in arrivals.items())
        if idle:
            self._deliver_some()

    def _deliver_some(self) -> None:
        for _ in range(min(_AT_ONCE, len(self._undelivered))):
            submission, own, now = self._undelivered.popleft()
            submission.receive(own, now, self._metrics)
        if self._undelivered:
            asyncio.get_running_loop().call_soon(self._deliver_some)

    def _call_loop(self, function: Callable[..., object], *args: object) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)
