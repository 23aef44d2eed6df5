"""Anthropic's own client on our server: `python examples/anthropic_client.py [BASE_URL] [MODEL]`."""

from __future__ import annotations

import sys
from typing import Any

from anthropic import Anthropic

PRICE: Any = {
    "name": "get_price",
    "description": "Get the price of a drink",
    "input_schema": {
        "type": "object",
        "properties": {"item": {"type": "string", "description": "Name of the drink"}},
        "required": ["item"],
    },
}


def main(base_url: str = "http://127.0.0.1:8000", model: str = "nano") -> None:
    client = Anthropic(base_url=base_url, api_key="none")

    print("# A stream")
    hello: Any = [{"role": "user", "content": "Hello!"}]
    with client.messages.stream(model=model, max_tokens=100, messages=hello) as stream:
        for text in stream.text_stream:
            print(text, end="", flush=True)
    print()

    print("# A tool: the call, and the answer from its result")
    messages: Any = [{"role": "user", "content": "How much is a tea?"}]
    first = client.messages.create(
        model=model, max_tokens=200, messages=messages, tools=[PRICE], tool_choice={"type": "any"}
    )
    results: Any = []
    for block in first.content:
        if block.type == "tool_use":
            print("→", block.name, block.input)
            results.append({"type": "tool_result", "tool_use_id": block.id, "content": "3.50 euros"})
    if results:
        messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
        answer = client.messages.create(model=model, max_tokens=200, messages=messages, tools=[PRICE])
        print("".join(block.text for block in answer.content if block.type == "text"))

    print("# The length of a prompt")
    print(client.messages.count_tokens(model=model, messages=hello).input_tokens, "tokens")


if __name__ == "__main__":
    main(*sys.argv[1:])
