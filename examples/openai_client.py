"""OpenAI's own client on our server: `python examples/openai_client.py [BASE_URL] [MODEL]`."""

from __future__ import annotations

import json
import sys
from typing import Any

from openai import OpenAI
from pydantic import BaseModel

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Name of the city"}},
            "required": ["city"],
        },
    },
}


class Opinion(BaseModel):
    likes_it: bool


def main(base_url: str = "http://127.0.0.1:8000/v1", model: str = "nano") -> None:
    client = OpenAI(base_url=base_url, api_key="none")

    print("# A stream")
    hello: Any = [{"role": "user", "content": "Hello!"}]
    with client.chat.completions.create(model=model, messages=hello, stream=True) as stream:
        for chunk in stream:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()

    print("# A tool: the call, and the answer from its result")
    messages: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
    first = client.chat.completions.create(
        model=model, messages=messages, tools=[WEATHER], tool_choice="required", max_tokens=200
    ).choices[0]
    messages.append(first.message)
    for call in first.message.tool_calls or []:
        print("→", call.function.name, call.function.arguments)  # type: ignore[union-attr]
        result = json.dumps({"temperature": 20, "sky": "clear"})
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    if messages[-1]["role"] == "tool":
        answer = client.chat.completions.create(
            model=model, messages=messages, tools=[WEATHER], max_tokens=200
        )
        print(answer.choices[0].message.content)

    print("# An answer in the form of a class, whatever the model")
    parsed = client.chat.completions.parse(
        model=model,
        messages=[{"role": "user", "content": "Do you like tea?"}],
        response_format=Opinion,
        max_tokens=200,
    )
    print(parsed.choices[0].message.parsed)

    print("# The newer API")
    response = client.responses.create(model=model, input="What are you?", max_output_tokens=100)
    print(response.output_text)


if __name__ == "__main__":
    main(*sys.argv[1:])
