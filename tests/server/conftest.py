"""A server on a real socket, in this process, over a tiny model with random weights."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from chatglm3 import ChatGLM3
from chatglm3.server import Settings, create_app
from chatglm3.server.core import Core
from chatglm3.server.run import Server
from chatglm3.server.sentences import SentenceModel
from tests.tiny import write_tiny_checkpoint


class LiveServer:
    """A uvicorn server in a thread of its own."""

    def __init__(self, glm: ChatGLM3, settings: Settings, sentences: SentenceModel | None = None) -> None:
        self.glm = glm
        self.app = create_app(glm, settings, sentences)
        self.core: Core = self.app.state.core
        self.uvicorn = Server(self.app)
        self._thread = threading.Thread(target=self.uvicorn.run, daemon=True)

    def __enter__(self) -> LiveServer:
        self._thread.start()
        while not self.uvicorn.started:
            assert self._thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        self.port: int = self.uvicorn.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx2.Client(base_url=self.url, timeout=60, trust_env=False)
        return self

    def __exit__(self, *exception: object) -> None:
        self.http.close()
        self.uvicorn.should_exit = True
        self._thread.join(timeout=20)
        assert not self._thread.is_alive(), "the server did not end"

    def wait_until_idle(self, seconds: float = 20) -> None:
        """Wait until no request is left, and prove that nothing of any is left behind."""
        deadline = time.monotonic() + seconds
        while self.core.thread.stats.running or self.core.thread.stats.waiting:
            assert time.monotonic() < deadline, f"still at work: {self.core.thread.stats}"
            time.sleep(0.01)
        assert self.core.thread.stats.blocks_used == 0
        self.glm.engine.check()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def load_tiny(tiny_folder: Path) -> Callable[[], ChatGLM3]:
    """Loads the model anew: an engine belongs to one server."""
    return lambda: ChatGLM3.load(tiny_folder, device="cpu")


@pytest.fixture(scope="session")
def alone(load_tiny: Callable[[], ChatGLM3]) -> ChatGLM3:
    """The same model without a server: an engine that serves belongs to its thread."""
    return load_tiny()


@pytest.fixture(scope="session")
def server(load_tiny: Callable[[], ChatGLM3]) -> Iterator[LiveServer]:
    """One server for all tests that ask for nothing special."""
    with LiveServer(load_tiny(), Settings(model_names=("tiny", "chatglm3-6b"))) as live:
        yield live


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "server" in request.fixturenames:
        request.getfixturevalue("server").wait_until_idle()
