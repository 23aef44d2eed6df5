"""A server that speaks OpenAI's API, as the page sees it."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from chatglm3.errors import ChatGLM3Error, PromptTooLongError, ServerError
from chatglm3.tools.background import EventLoopThread

_CONNECT_SECONDS = 10.0
_AWAY_SECONDS = 30.0
"""For which a server that could not name its model is taken to be away."""


class StoppedError(ChatGLM3Error):
    """The person has stopped the answer."""


@dataclass(frozen=True)
class ModelInfo:
    """A model that a server offers."""

    name: str
    context: int | None
    """Tokens that prompt and answer may have together; None: the server does not say."""


class Api:
    """A server at `url`, such as http://127.0.0.1:8000/v1. Threads may share one.

    key: sent as `Authorization: Bearer`.
    model: what to ask for; by default the first that the server names.
    timeout: seconds without a sign of life after which an answer is given up.
    """

    def __init__(
        self, url: str, key: str | None = None, *, model: str | None = None, timeout: float = 600.0
    ) -> None:
        self.url = url.rstrip("/")
        self._asked_model = model
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._timeout = httpx.Timeout(timeout, connect=_CONNECT_SECONDS)
        self._loop = EventLoopThread("chatglm3-api")
        self._client: httpx.AsyncClient | None = None
        self._model: ModelInfo | None = None
        self._asking = threading.Lock()
        self._problem = ""
        self._away_until = 0.0

    @property
    def model(self) -> ModelInfo:
        """The model that answers. Raises ServerError as long as the server cannot be reached.

        A page asks whenever it is drawn: a server that does not answer is asked again only after a while.
        """
        with self._asking:
            if self._model is None and time.monotonic() < self._away_until:
                raise ServerError(self._problem)
            try:
                return self._find_model(_CONNECT_SECONDS)
            except ChatGLM3Error as error:
                self._problem, self._away_until = str(error), time.monotonic() + _AWAY_SECONDS
                raise

    def stream(self, body: Mapping[str, Any]) -> ChatStream:
        """Ask /chat/completions. Returns once the answer begins; raises ServerError or PromptTooLongError."""
        model = self._find_model(self._timeout.read)  # a person who tries again means it
        return ChatStream(self._loop, self._chunks({**body, "model": model.name, "stream": True}))

    def close(self) -> None:
        """End what is under way, and the connections."""
        if self._client is not None:
            self._loop.start(self._client.aclose()).future.result()
        self._loop.close()

    def _find_model(self, timeout: float | None) -> ModelInfo:
        if self._model is None:
            offered = self._loop.start(self._models(timeout)).future.result()
            found = [model for model in offered if self._asked_model in (None, model.name)]
            if not found:
                names = ", ".join(model.name for model in offered) or "none"
                raise ServerError(f"{self.url} has no model {self._asked_model!r}; it has {names}")
            self._model = found[0]
        return self._model

    def _http(self) -> httpx.AsyncClient:
        if self._client is None:  # it belongs to the loop in which it is first used
            # A server on this machine, or one that was named: no proxy of the environment stands between.
            self._client = httpx.AsyncClient(headers=self._headers, timeout=self._timeout, trust_env=False)
        return self._client

    async def _models(self, timeout: float | None) -> list[ModelInfo]:
        try:
            limits = httpx.Timeout(timeout, connect=_CONNECT_SECONDS)
            response = await self._http().get(f"{self.url}/models", timeout=limits)
            if response.is_error:
                raise self._refusal(response)
            return [ModelInfo(item["id"], item.get("max_model_len")) for item in response.json()["data"]]
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ServerError(f"{self.url}/models is not OpenAI's; is {self.url} the address?") from None

    async def _chunks(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The chunks of an answer; the first item, {}, says that it has begun."""
        began = False
        try:
            async with self._http().stream("POST", f"{self.url}/chat/completions", json=body) as response:
                if response.is_error:
                    await response.aread()
                    raise self._refusal(response)
                began = True
                yield {}
                async for data in _events(response):
                    if data == b"[DONE]":
                        return
                    yield _chunk(data)
        except httpx.HTTPError as error:
            if not began:
                raise self._unreachable(error) from None
        raise ServerError("the server broke the answer off; try again once it runs")

    def _refusal(self, response: httpx.Response) -> ChatGLM3Error:
        """What a status above 400 says."""
        try:
            error = response.json()["error"]
            message, code = str(error["message"]), error.get("code")
        except (ValueError, KeyError, TypeError, AttributeError):
            message, code = response.text[:300] or response.reason_phrase, None
        if code == "context_length_exceeded":
            return PromptTooLongError(message)
        if code == "model_not_found":
            self._model = None  # the server was restarted with another one: look anew the next time
        if response.status_code == 401:
            message += " (the page gets a key with --api-key)"
        return ServerError(f"the server says: {message} (status {response.status_code})")

    def _unreachable(self, error: httpx.HTTPError) -> ServerError:
        reason = (
            "no answer in time" if isinstance(error, httpx.TimeoutException) else str(error) or "no answer"
        )
        return ServerError(f"the server at {self.url} cannot be reached ({reason}); is it running?")


class ChatStream:
    """The chunks of one answer, from the loop's thread to the one that iterates."""

    def __init__(self, loop: EventLoopThread, chunks: AsyncIterator[dict[str, Any]]) -> None:
        self._arrivals: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()
        self._job = loop.start(self._forward(chunks))

    def wait(self) -> None:
        """Wait until the answer begins."""
        next(iter(self))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while (arrival := self._arrivals.get()) is not None:
            if isinstance(arrival, BaseException):
                raise arrival
            yield arrival

    def stop(self) -> None:
        """End the answer, from any thread: whoever iterates gets StoppedError."""
        self._arrivals.put(StoppedError("the answer was stopped"))
        self.close()

    def close(self) -> None:
        """Close the connection, if it is still open."""
        self._job.cancel()

    async def _forward(self, chunks: AsyncIterator[dict[str, Any]]) -> None:
        try:
            async for chunk in chunks:
                self._arrivals.put(chunk)
            self._arrivals.put(None)
        except asyncio.CancelledError:
            self._arrivals.put(StoppedError("the answer was stopped"))
            raise
        except Exception as error:
            self._arrivals.put(error)


async def _events(response: httpx.Response) -> AsyncIterator[bytes]:
    """The data of server-sent events. (httpx's own lines end at U+2028 as well, which JSON may hold.)"""
    rest = b""
    async for part in response.aiter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line.removeprefix(b"data:").strip()


def _chunk(data: bytes) -> dict[str, Any]:
    try:
        chunk = json.loads(data)
    except ValueError:
        chunk = None
    if not isinstance(chunk, dict):
        raise ServerError(f"the server sent what is no chunk of an answer: {data!r:.200}")
    if isinstance(error := chunk.get("error"), Mapping):
        raise ServerError(str(error.get("message") or "the server broke the answer off"))
    return chunk
