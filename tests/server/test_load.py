"""Many clients at once, some of whom leave: nothing is lost, mixed up or left behind."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from chatglm3 import ChatGLM3
from chatglm3.engine import SamplingParams
from chatglm3.prompt import Message, ReplyDecoder, render
from tests.server.conftest import LiveServer
from tests.server.process import served

WORDS = ["hello", "world", "你好", "天气", "Paris", "42", "how are you", "today"]


def question(number: int) -> str:
    rng = random.Random(number)
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 40)))


def body(number: int, max_tokens: int) -> dict:
    return {
        "messages": [{"role": "user", "content": question(number)}],
        "temperature": 0,
        "max_tokens": max_tokens,
        "stream": True,
    }


@dataclass
class Load:
    """What the clients of a test saw."""

    port: int
    max_tokens: int
    answers: dict[int, str] = field(default_factory=dict)
    cut: int = 0

    async def stream(self, number: int, cut_after: int | None) -> None:
        """One client on a socket of its own; cut_after: chunks after which it is gone without a word."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        data = json.dumps(body(number, self.max_tokens)).encode()
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data)
        )
        assert b" 200 " in await reader.readline()
        texts, seen = [], 0
        async for line in reader:
            if not line.startswith(b"data: {"):
                continue
            seen += 1
            if cut_after is not None and seen > cut_after:
                writer.transport.abort()  # a reset, as from a killed process
                self.cut += 1
                return
            chunk = json.loads(line.removeprefix(b"data: "))
            assert "error" not in chunk
            texts.append(chunk["choices"][0]["delta"].get("content", ""))
            finished = chunk["choices"][0]["finish_reason"]
        assert finished in ("stop", "length")
        writer.close()
        self.answers[number] = "".join(texts)

    async def run(self, clients: int, seconds: float) -> None:
        """So many clients, each asking again until the time is over; one in four leaves in the middle."""
        deadline = time.monotonic() + seconds
        numbers = iter(range(10**9))
        rng = random.Random(0)

        async def client() -> None:
            while time.monotonic() < deadline:
                number = next(numbers)
                cut = rng.randint(1, self.max_tokens // 2) if number % 4 == 3 else None
                await self.stream(number, cut)

        await asyncio.gather(*(client() for _ in range(clients)))


def answers_alone(glm: ChatGLM3, numbers: list[int], max_tokens: int) -> dict[int, str]:
    """The same questions, one at a time, past the server."""
    found = {}
    for number in numbers:
        ids = render([Message("user", question(number))], glm.tokenizer).ids
        params = SamplingParams(temperature=0, max_tokens=max_tokens, stop_ids=glm.tokenizer.stop_ids)
        (completion,) = glm.engine.generate([ids], params)[0]
        decoder = ReplyDecoder(glm.tokenizer, tool_names=None, interpreter=False)
        for id in completion.ids:
            decoder.add(id)
        found[number] = decoder.finish()[1].content
    return found


def compare(load: Load, alone: ChatGLM3, most: int) -> None:
    """Each answer is the one that its question gets alone."""
    assert len(load.answers) > 2 * load.cut > 0
    numbers = sorted(load.answers)[:most]
    assert {n: load.answers[n] for n in numbers} == answers_alone(alone, numbers, load.max_tokens)


def test_sixteen_streams_of_which_one_in_four_is_cut(server: LiveServer, alone: ChatGLM3) -> None:
    load = Load(server.port, max_tokens=16)
    asyncio.run(load.run(clients=16, seconds=2))
    server.wait_until_idle()
    compare(load, alone, most=40)


WATCH_HEALTH = """
import http.client, sys, time
port, seconds = int(sys.argv[1]), float(sys.argv[2])
end = time.monotonic() + seconds
while time.monotonic() < end:
    started = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200
    connection.close()
    print(time.perf_counter() - started)
    time.sleep(0.1)
"""


def resident(pid: int) -> int:
    """Memory of a process, in KiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmRSS:")[2].split()[0])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_sixty_four_streams_for_a_minute() -> None:
    """The whole of it: the embedded model, a process of its own, memory and /health watched from outside."""
    free = os.getloadavg()[0] < (os.cpu_count() or 1)  # otherwise others make us late
    with served("nano") as server:
        asyncio.run(Load(server.port, max_tokens=32).run(clients=64, seconds=5))
        before = resident(server.process.pid)
        load = Load(server.port, max_tokens=32)
        command = [sys.executable, "-c", WATCH_HEALTH, str(server.port), "60"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watcher:
            asyncio.run(load.run(clients=64, seconds=60))
            health = sorted(map(float, watcher.communicate()[0].split()))
        assert watcher.returncode == 0
        assert resident(server.process.pid) - before < 20_000
        metrics = httpx2.get(f"{server.url}/metrics", trust_env=False).text
        for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
            assert f'chatglm3:{name}{{model_name="nano"}} 0.0' in metrics
    print(f"{len(load.answers)} answers, {load.cut} cut off, /health {health[len(health) // 2]:.3f} s,")
    print(f"at the 99th percentile {health[int(len(health) * 0.99)]:.3f} s, at most {health[-1]:.3f} s")
    compare(load, ChatGLM3.load("nano", device="cpu"), most=300)
    assert not free or health[int(len(health) * 0.99)] < 0.1
