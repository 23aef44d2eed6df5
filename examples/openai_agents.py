"""The OpenAI Agents SDK on our server: `python examples/openai_agents.py [BASE_URL] [MODEL]`."""

from __future__ import annotations

import sys

from agents import (
    Agent,
    MaxTurnsExceeded,
    ModelSettings,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

set_tracing_disabled(True)  # traces would go to OpenAI


@function_tool
def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return f"It is 20 degrees and clear in {city}."


def main(base_url: str = "http://127.0.0.1:8000/v1", model: str = "nano") -> None:
    agent = Agent(
        name="Assistant",
        instructions="Answer briefly.",
        tools=[get_weather],
        model=OpenAIResponsesModel(model, AsyncOpenAI(base_url=base_url, api_key="none")),
        model_settings=ModelSettings(temperature=0, max_tokens=200),
    )
    try:
        result = Runner.run_sync(agent, "What is the weather in Paris?", max_turns=4)
    except MaxTurnsExceeded as error:  # a small model may call for ever
        print(error)
        return
    for item in result.new_items:
        print(item.type)
    print(result.final_output)


if __name__ == "__main__":
    main(*sys.argv[1:])
