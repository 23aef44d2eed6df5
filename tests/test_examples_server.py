"""The examples of clients run, each in a process of its own, against a server with the embedded model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatglm3 import ChatGLM3
from chatglm3.server import Settings
from tests.server.conftest import LiveServer

ROOT = Path(__file__).resolve().parents[1]
NANO = ROOT / "chatglm3" / "models" / "nano"

pytestmark = pytest.mark.skipif(not NANO.is_dir(), reason="the embedded model is not in this checkout")


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with LiveServer(ChatGLM3.load("nano", device="cpu"), Settings()) as live:
        yield live
        live.wait_until_idle()


def run(server: LiveServer, script: str, base: str = "/v1", *options: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / script), f"{server.url}{base}", *options],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_openais_client(server: LiveServer) -> None:
    printed = run(server, "examples/openai_client.py")
    assert "→ get_weather {" in printed
    assert "likes_it=" in printed
    assert printed.split("# The newer API\n")[1].strip()


def test_anthropics_client(server: LiveServer) -> None:
    printed = run(server, "examples/anthropic_client.py", "")
    assert "→ get_price {" in printed
    assert printed.strip().endswith(" tokens")


def test_the_langchain_agent(server: LiveServer) -> None:
    lines = run(server, "examples/langchain_agent.py").splitlines()
    assert [line for line in lines if line.startswith("human: ")] == [
        "human: What is 12 * 34?",
        "human: What is the weather in Paris?",
    ]
    assert lines[-1].startswith("ai: ")


def test_the_agents_sdk(server: LiveServer) -> None:
    assert run(server, "examples/openai_agents.py").strip()


def test_the_load_command(server: LiveServer) -> None:
    options = ["--clients", "1", "2", "--requests", "2", "--prompt-words", "5", "--max-tokens", "4"]
    closed = run(server, "benchmarks/serving.py", "/v1", "--model", "nano", *options)
    assert len([line for line in closed.splitlines() if line.startswith("|")]) == 4  # head, rule, two rows
    opened = run(server, "benchmarks/serving.py", "/v1", "--model", "nano", *options, "--rate", "50")
    assert "open loop" in opened
    beside = run(server, "benchmarks/serving.py", "/v1", *options, "--peer", f"{server.url}/v1")
    assert "server / peer: " in beside
