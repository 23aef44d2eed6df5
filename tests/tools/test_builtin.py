"""The tools that come with the package. Those that ask services ask one on this machine here."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from chatglm3.prompt import ToolCall
from chatglm3.tools import Toolbox, ToolResult
from chatglm3.tools.builtin import web


@pytest.fixture(scope="module")
def toolbox() -> Iterator[Toolbox]:
    with Toolbox("builtin", "shell") as made:
        yield made


def call(toolbox: Toolbox, name: str, /, **arguments: Any) -> ToolResult:
    return toolbox.call(ToolCall(name, arguments))


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", "7"),
        ("(3+4)*2**10/sqrt(16)", "1792"),
        ("2^10", "1024"),
        ("7 // 2 + 7 % 4", "6"),
        ("-3 + +5", "2"),
        ("0.1 + 0.2", "0.3"),
        ("1/3", "0.333333333333"),
        ("sin(pi / 2) + log(e)", "2"),
        ("max(1, 2, 3) - min(4, 5)", "-1"),
        ("factorial(5)", "120"),
        ("round(3.14159, 2)", "3.14"),
        ("（3＋4）×2÷7".replace("＋", "+"), "2"),
        ("12345678901234567890 * 98765432109876543210", "1219326311370217952237463801111263526900"),
        ("1e3", "1000"),
        ("2 ** -2", "0.25"),
    ],
)
def test_the_calculator_calculates(toolbox: Toolbox, expression: str, value: str) -> None:
    assert call(toolbox, "calculator", expression=expression).content == value


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "1 +",
        "1 / 0",
        "9**9**9",
        "2**100000",
        "(10**2000)**2",
        "(-8) ** 0.5",
        "2.0 ** 100000",
        "factorial(100000)",
        "round(1, -10**9)",
        "10**3000 * 10**3000",
        "__import__('os').system('true')",
        "().__class__",
        "open('/etc/passwd')",
        "[1, 2]",
        "'a' * 10**9",
        "True + 1",
        "x",
        "1 if 1 else 2",
        "sqrt()",
        "sqrt(-1)",
        "(" * 300 + ")" * 300,
        "-" * 600 + "1",
        "lambda: 1",
    ],
)
def test_the_calculator_refuses_at_once(toolbox: Toolbox, expression: str) -> None:
    start = time.monotonic()
    result = call(toolbox, "calculator", expression=expression)
    assert result.is_error
    assert result.content.startswith("Error: ")
    assert time.monotonic() - start < 1


@pytest.mark.parametrize(
    ("value", "source", "target", "content"),
    [
        (3, "mi", "km", "3 mi = 4.828032 km"),
        (5, "公里", "米", "5 公里 = 5000 米"),
        (12, "inches", "feet", "12 inches = 1 feet"),
        (1, "Nautical Miles", "m", "1 Nautical Miles = 1852 m"),
    ],
)
def test_distances(toolbox: Toolbox, value: float, source: str, target: str, content: str) -> None:
    assert call(toolbox, "convert_distance", value=value, from_unit=source, to_unit=target).content == content


def test_an_unknown_unit_is_named(toolbox: Toolbox) -> None:
    result = call(toolbox, "convert_distance", value=1, from_unit="parsec", to_unit="m")
    assert result.content.startswith("Error: 'parsec' is not a known unit of distance; known are mm, cm")


def test_random_numbers_stay_in_their_bounds(toolbox: Toolbox) -> None:
    drawn = {int(call(toolbox, "random_number", low=1, high=3).content) for _ in range(60)}
    assert drawn == {1, 2, 3}
    assert call(toolbox, "random_number", low=3, high=1).is_error


def test_the_time(toolbox: Toolbox) -> None:
    assert re.fullmatch(
        r"20\d\d-\d\d-\d\d \w+day \d\d:\d\d:\d\d CST",
        call(toolbox, "current_time", timezone="Asia/Shanghai").content,
    )
    assert not call(toolbox, "current_time").is_error
    assert call(toolbox, "current_time", timezone="../../etc/passwd").is_error
    assert "Asia/Shanghai" in call(toolbox, "current_time", timezone="Mars").content


ANSWERS: dict[str, Any] = {
    "/geo": {"results": [{"name": "北京", "country": "中国", "latitude": 39.9, "longitude": 116.4}]},
    "/forecast": {
        "current": {
            "temperature_2m": 3.5,
            "apparent_temperature": 1.0,
            "relative_humidity_2m": 40,
            "wind_speed_10m": 12.0,
            "weather_code": 61,
        }
    },
    "/duck": {
        "Heading": "Python",
        "AbstractText": "A language.",
        "AbstractURL": "https://python.org",
        "RelatedTopics": [{"Text": "Monty Python", "FirstURL": "https://m"}, {"Name": "See also"}],
    },
    "/wiki": {
        "query": {"pages": [{"index": 1, "title": "蟒蛇", "fullurl": "https://w", "extract": "一种蛇。"}]}
    },
    "/arxiv": """<feed xmlns="http://www.w3.org/2005/Atom"><entry><id>http://arxiv.org/abs/2103.10360</id>
        <title>GLM: General
        Language Model</title><summary>We propose</summary><published>2021-03-18T00:00:00Z</published>
        <author><name>Zhengxiao Du</name></author></entry></feed>""",
    "/empty": {},
    "/text": "not JSON",
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        address = urlsplit(self.path)
        asked.append((address.path, {key: value[0] for key, value in parse_qs(address.query).items()}))
        if address.path not in ANSWERS:
            self.send_error(503)
            return
        answer = ANSWERS[address.path]
        self.send_response(200)
        self.end_headers()
        self.wfile.write((answer if isinstance(answer, str) else json.dumps(answer)).encode())

    def log_message(self, *args: Any) -> None:
        pass


asked: list[tuple[str, dict[str, str]]] = []


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _no_proxy_and_no_network(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    paths = {
        "GEOCODING": "/geo",
        "FORECAST": "/forecast",
        "DUCKDUCKGO": "/duck",
        "WIKIPEDIA": "/wiki",
        "ARXIV": "/arxiv",
    }
    for name, path in paths.items():
        monkeypatch.setattr(web, name, service + path)
    asked.clear()


def test_weather(toolbox: Toolbox) -> None:
    assert json.loads(call(toolbox, "get_weather", city="北京").content) == {
        "city": "北京",
        "country": "中国",
        "weather": "rain",
        "temperature_celsius": 3.5,
        "feels_like_celsius": 1.0,
        "humidity_percent": 40,
        "wind_km_per_hour": 12.0,
    }
    assert asked[0] == ("/geo", {"name": "北京", "count": "1", "language": "zh"})
    assert asked[1][1]["latitude"] == "39.9"


def test_a_city_that_does_not_exist(toolbox: Toolbox, service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "GEOCODING", f"{service}/empty")
    assert call(toolbox, "get_weather", city="Atlantis").content == "Error: there is no city 'Atlantis'"


def test_web_search(toolbox: Toolbox, service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = json.loads(call(toolbox, "web_search", query="python").content)
    assert [item["text"] for item in found] == ["A language.", "Monty Python"]
    monkeypatch.setattr(web, "DUCKDUCKGO", f"{service}/empty")
    assert json.loads(call(toolbox, "web_search", query="蟒蛇").content) == [
        {"title": "蟒蛇", "url": "https://w", "text": "一种蛇。"}
    ]
    monkeypatch.setattr(web, "WIKIPEDIA", f"{service}/empty")
    assert call(toolbox, "web_search", query="x").content == "nothing was found"


def test_arxiv(toolbox: Toolbox) -> None:
    (paper,) = json.loads(call(toolbox, "search_arxiv", query="general language model").content)
    assert paper == {
        "title": "GLM: General Language Model",
        "authors": ["Zhengxiao Du"],
        "published": "2021-03-18",
        "url": "http://arxiv.org/abs/2103.10360",
        "summary": "We propose",
    }
    assert asked[0][1]["search_query"] == "all:general AND all:language AND all:model"
    assert call(toolbox, "search_arxiv", query="x", max_results=1000).is_error


@pytest.mark.parametrize(
    ("url", "content"),
    [
        ("{service}/broken", "Error: 127.0.0.1 refuses the request: 503"),
        ("{service}/text", "Error: 127.0.0.1 answers something that cannot be read"),
        ("http://127.0.0.1:9/", "Error: 127.0.0.1 cannot be reached"),
    ],
)
def test_services_that_fail(
    toolbox: Toolbox, service: str, url: str, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GEOCODING", "DUCKDUCKGO"):
        monkeypatch.setattr(web, name, url.format(service=service))
    for result in (call(toolbox, "get_weather", city="x"), call(toolbox, "web_search", query="x")):
        assert result.is_error
        assert result.content.startswith(content)


def test_the_shell(toolbox: Toolbox) -> None:
    assert call(toolbox, "shell", command="echo out; echo err >&2").content == "out\nerr\n"
    assert call(toolbox, "shell", command="echo x; exit 3").content == "x\n\n[exit code 3]"
    assert call(toolbox, "shell", command="cat").content == ""  # there is no standard input
    assert toolbox["shell"].needs_approval
    flood = call(toolbox, "shell", command="head -c 50000000 /dev/zero | tr '\\0' x")
    assert "cut here" in flood.content
    start = time.monotonic()
    assert call(toolbox, "shell", command="sleep 60 & echo started").content == "started\n"
    assert time.monotonic() - start < 5
