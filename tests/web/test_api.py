"""What the page asks a server, and how often."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from chatglm3.errors import ServerError
from chatglm3.web import Api, ModelInfo


class Server(HTTPServer):
    """Names a model, unless it is ill."""

    is_ill = True
    asked = 0


class Answer(BaseHTTPRequestHandler):
    """One request."""

    server: Server

    def do_GET(self) -> None:
        """/models."""
        self.server.asked += 1
        text = json.dumps({} if self.server.is_ill else {"data": [{"id": "nano", "max_model_len": 2048}]})
        self.send_response(503 if self.server.is_ill else 200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def ill() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_page_that_is_drawn_again_does_not_ask_a_server_that_is_away_again(ill: Server) -> None:
    api = Api(f"http://127.0.0.1:{ill.server_port}/v1")
    messages = set()
    for _ in range(5):
        with pytest.raises(ServerError, match="503") as raised:
            _ = api.model
        messages.add(str(raised.value))
    assert (ill.asked, len(messages)) == (1, 1)
    with pytest.raises(ServerError, match="503"):  # a question is worth a try
        api.stream({})
    ill.is_ill = False
    assert ill.asked == 2
    api.stream({}).close()
    assert api.model == ModelInfo("nano", 2048)
    assert ill.asked == 3
    api.close()
