"""Load on a server with OpenAI's API: throughput, time to the first token, time between tokens.

    python benchmarks/serving.py http://127.0.0.1:8000/v1 --model nano
    python benchmarks/serving.py http://127.0.0.1:8000/v1 --rate 0.2                        # open loop
    python benchmarks/serving.py http://127.0.0.1:8000/v1 --peer http://127.0.0.1:8080/v1   # beside another

Closed loop: each client asks again as soon as it has its answer. Open loop (--rate): each asks at random
times, whether or not its earlier questions are answered. Any server with OpenAI's API can be the peer, such
as llama.cpp's `llama-server` with the same weights; each load goes to one and then to the other, and the
ratio of their tokens a second is told. Prompts differ in their first word, so no server can answer from a
cache of prefixes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import count
from statistics import quantiles
from typing import Any

import httpx2

WORDS = ["time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school"]


@dataclass
class Result:
    """What one request took; times in seconds as of time.perf_counter()."""

    begun: float
    tokens: list[float] = field(default_factory=list)
    """When each piece of text came."""
    counted: int = 0
    """Tokens as the server counts them, or the pieces where it does not say."""
    error: str | None = None

    @property
    def gaps(self) -> list[float]:
        return [later - sooner for sooner, later in zip(self.tokens, self.tokens[1:], strict=False)]


class Load:
    """Sends requests of one kind."""

    def __init__(self, client: httpx2.AsyncClient, model: str | None, args: argparse.Namespace) -> None:
        self._client = client
        self._model = model
        self._args = args
        self._random = random.Random(args.seed)
        self._numbers = count(args.seed * 1_000_000)

    async def ask(self) -> Result:
        """One request, streamed to its end."""
        words = self._random.choices(WORDS, k=self._args.prompt_words)
        content = f"{next(self._numbers)}: {' '.join(words)}"
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self._args.max_tokens,
            "temperature": 1.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._model:
            body["model"] = self._model
        result = Result(time.perf_counter())
        try:
            async for chunk in self._chunks(body):
                if any(choice["delta"].get("content") for choice in chunk["choices"]):
                    result.tokens.append(time.perf_counter())
                if usage := chunk.get("usage"):
                    result.counted = usage["completion_tokens"]
        except (httpx2.HTTPError, ValueError) as error:
            result.error = f"{type(error).__name__}: {error}"
        result.counted = result.counted or len(result.tokens)
        return result

    async def _chunks(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        async with self._client.stream("POST", "chat/completions", json=body) as response:
            if response.status_code != 200:
                raise ValueError(f"status {response.status_code}: {(await response.aread())[:200]!r}")
            async for line in response.aiter_lines():
                data = line.removeprefix("data: ")
                if data not in (line, "[DONE]"):
                    chunk = json.loads(data)
                    if "error" in chunk:
                        raise ValueError(str(chunk["error"]))
                    yield chunk

    async def closed(self, clients: int) -> list[Result]:
        """So many clients, each with its requests one after the other."""

        async def one() -> list[Result]:
            return [await self.ask() for _ in range(self._args.requests)]

        return [
            result for results in await asyncio.gather(*(one() for _ in range(clients))) for result in results
        ]

    async def opened(self, clients: int) -> list[Result]:
        """As many requests, at random times: of each client `rate` a second."""
        tasks = []
        for _ in range(clients * self._args.requests):
            tasks.append(asyncio.create_task(self.ask()))
            await asyncio.sleep(self._random.expovariate(clients * self._args.rate))
        return await asyncio.gather(*tasks)


def percentile(values: list[float], percent: int) -> str:
    """In milliseconds."""
    if not values:
        return "-"
    cuts = quantiles(values, n=100, method="inclusive") if len(values) > 1 else values * 99
    return f"{1000 * cuts[percent - 1]:.1f}"


def tokens_a_second(results: list[Result], seconds: float) -> float:
    return sum(result.counted for result in results if result.error is None) / seconds


def row(name: str, clients: int, results: list[Result], seconds: float) -> str:
    """A line of the table."""
    done = [result for result in results if result.error is None]
    first = [result.tokens[0] - result.begun for result in done if result.tokens]
    gaps = [gap for result in done for gap in result.gaps]
    cells = [
        name,
        str(clients),
        str(len(done)),
        str(len(results) - len(done)),
        f"{len(done) / seconds:.2f}",
        f"{tokens_a_second(results, seconds):.1f}",
        *(percentile(first, percent) for percent in (50, 99)),
        *(percentile(gaps, percent) for percent in (50, 99)),
    ]
    return f"| {' | '.join(cells)} |"


async def main(args: argparse.Namespace) -> None:
    headers = {"Authorization": f"Bearer {args.api_key}"} if args.api_key else {}
    limits = httpx2.Limits(max_connections=None)
    servers = {"server": (args.base_url, args.model)}
    if args.peer:
        servers["peer"] = (args.peer, args.peer_model)
    kind = f"open loop, {args.rate:g} requests a second of each client" if args.rate else "closed loop"
    async with AsyncExitStack() as stack:
        loads = {}
        for name, (url, model) in servers.items():
            client = httpx2.AsyncClient(
                base_url=url, headers=headers, limits=limits, timeout=args.timeout, trust_env=False
            )
            loads[name] = Load(await stack.enter_async_context(client), model, args)
            warm_up = await loads[name].ask()
            if warm_up.error is not None:
                raise SystemExit(f"error: {url} does not answer: {warm_up.error}")
            print(f"{name}: {url}")
        print(f"{kind}; {args.prompt_words} words in, at most {args.max_tokens} tokens out\n")
        print(
            "| | clients | answers | errors | answers/s | tokens/s | TTFT p50 ms | p99 | ITL p50 ms | p99 |"
        )
        print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|", flush=True)
        ratios = []
        for clients in args.clients:
            speeds = []
            for name, load in loads.items():
                begun = time.perf_counter()
                results = await (load.opened(clients) if args.rate else load.closed(clients))
                seconds = time.perf_counter() - begun
                speeds.append(tokens_a_second(results, seconds))
                print(row(name, clients, results, seconds), flush=True)
                for error in sorted({result.error for result in results if result.error}):
                    print(f"  {error}")
            if len(speeds) == 2 and speeds[1]:
                ratios.append(f"{speeds[0] / speeds[1]:.2f} with {clients}")
        if ratios:
            print(f"\ntokens a second, server / peer: {', '.join(ratios)} clients")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Load on a server with OpenAI's API.")
    parser.add_argument("base_url", help="such as http://127.0.0.1:8000/v1")
    parser.add_argument("--model", help="default: the server's own")
    parser.add_argument("--peer", metavar="URL", help="another server, for the same load")
    parser.add_argument("--peer-model", metavar="NAME", help="its model; default: its own")
    parser.add_argument(
        "--api-key", default=os.environ.get("OPENAI_API_KEY"), help="default: $OPENAI_API_KEY"
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64], metavar="N")
    parser.add_argument("--requests", type=int, default=8, metavar="N", help="of each client (8)")
    parser.add_argument("--rate", type=float, metavar="R", help="open loop: requests a second of each client")
    parser.add_argument("--prompt-words", type=int, default=100, metavar="N", help="(100)")
    parser.add_argument("--max-tokens", type=int, default=64, metavar="N", help="(64)")
    parser.add_argument("--timeout", type=float, default=600, metavar="S", help="for one request (600)")
    parser.add_argument("--seed", type=int, default=0, help="another one for another server's run (0)")
    asyncio.run(main(parser.parse_args()))
