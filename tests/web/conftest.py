"""Sessions of the page over a real server, whose model says what a test wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from chatglm3 import ChatGLM3
from chatglm3.server import Settings as ServerSettings
from chatglm3.tools import Toolbox, tool
from chatglm3.web import Api, Conversation, Host, Mode, Session
from tests.server.conftest import LiveServer
from tests.server.scripted import Script
from tests.tiny import write_tiny_checkpoint


@tool
def get_weather(city: str) -> dict[str, object]:
    """Get the weather of a city."""
    return {"city": city, "celsius": 21}


@tool(needs_approval=True)
def delete_notes(name: str) -> str:
    """Delete notes by their name."""
    return f"{name} is gone"


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model", max_seq_len=2048)
    with LiveServer(ChatGLM3.load(folder, device="cpu"), ServerSettings(model_names=("tiny",))) as live:
        yield live


@pytest.fixture(scope="package")
def scripted(server: LiveServer) -> Script:
    return Script(server.glm)


@pytest.fixture
def script(scripted: Script) -> Script:
    """What a test before this one left unsaid is forgotten."""
    scripted.forget()
    return scripted


@pytest.fixture(scope="package")
def api(server: LiveServer) -> Iterator[Api]:
    api = Api(f"{server.url}/v1")
    yield api
    api.close()


@pytest.fixture(scope="package")
def host(api: Api) -> Iterator[Host]:
    with Toolbox(get_weather, delete_notes) as tools:
        yield Host(api, tools)


@pytest.fixture
def session(host: Host) -> Iterator[Callable[[Mode], Session]]:
    """Makes sessions that are kept nowhere."""
    made: list[Session] = []

    def make(mode: Mode = "chat") -> Session:
        made.append(Session(host, Conversation(mode=mode), lambda conversation: None))
        return made[-1]

    yield make
    for session in made:
        session.close()
