"""OpenAI's own client, as applications use it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from chatglm3 import ChatGLM3
from chatglm3.server import ApiKey, Settings
from tests.server.conftest import LiveServer
from tests.server.scripted import Script
from tests.tiny import write_tiny_checkpoint

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Weather in Paris?"}]
TOOLS: list[ChatCompletionToolParam] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
CALL = "get_weather\n ```python\ntool_call(city='Paris')\n```<|observation|>"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("openai") / "model", max_seq_len=2048)
    settings = Settings(model_names=("tiny",), api_keys=(ApiKey("sk-test"),))
    with LiveServer(ChatGLM3.load(folder, device="cpu"), settings) as live:
        yield live


@pytest.fixture(scope="module")
def script(server: LiveServer) -> Script:
    return Script(server.glm)


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-test", max_retries=0) as client:
        yield client


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=QUESTION, temperature=0, max_tokens=9)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 9
    assert answer.usage.prompt_tokens_details is not None
    assert answer._request_id.startswith("req_")  # type: ignore[union-attr]
    stream = client.chat.completions.create(
        model="tiny",
        messages=QUESTION,
        temperature=0,
        max_tokens=9,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == answer.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == answer.usage.total_tokens


def test_a_conversation_with_a_tool(client: openai.OpenAI, script: Script) -> None:
    script.say(CALL, "\n It is 20 degrees.")
    answer = client.chat.completions.create(model="tiny", messages=QUESTION, tools=TOOLS)
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    history = [*QUESTION, message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "20"}]
    answer = client.chat.completions.create(model="tiny", messages=history, tools=TOOLS)  # type: ignore[arg-type]
    assert answer.choices[0].message.content == "It is 20 degrees."


def test_the_clients_own_accumulation_of_a_stream(client: openai.OpenAI, script: Script) -> None:
    script.say(f"\n Let me look.<|assistant|>{CALL}")
    with client.chat.completions.stream(model="tiny", messages=QUESTION, tools=TOOLS) as stream:
        events = [event.type for event in stream]
        answer = stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in events
    message = answer.choices[0].message
    assert message.content == "Let me look."
    assert message.tool_calls is not None
    assert message.tool_calls[0].function.arguments == '{"city": "Paris"}'


def test_completions_embeddings_and_models(client: openai.OpenAI) -> None:
    completion = client.completions.create(model="tiny", prompt="hello", max_tokens=3, logprobs=1, echo=True)
    assert completion.choices[0].text.startswith("hello")
    assert completion.choices[0].logprobs is not None
    vector = client.embeddings.create(model="tiny", input="hello").data[0].embedding
    assert len(vector) == 48
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"


def test_errors_are_the_clients_own(server: LiveServer, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no model 'gpt'"):
        client.chat.completions.create(model="gpt", messages=QUESTION)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=QUESTION, temperature=3)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=5000)
    assert caught.value.code == "context_length_exceeded"
    other = openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="valid API key"):
        other.models.list()


def test_many_at_once_with_the_asynchronous_client(server: LiveServer) -> None:
    async def ask(client: openai.AsyncOpenAI, number: int) -> tuple[str, str]:
        messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": f"{number} " * number}]
        whole = await client.chat.completions.create(
            model="tiny", messages=messages, temperature=0, max_tokens=12
        )
        stream = await client.chat.completions.create(
            model="tiny", messages=messages, temperature=0, max_tokens=12, stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        return whole.choices[0].message.content or "", text

    async def everyone() -> list[tuple[str, str]]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="sk-test") as client:
            return await asyncio.gather(*(ask(client, number) for number in range(1, 9)))

    answers = asyncio.run(everyone())
    assert all(whole == streamed for whole, streamed in answers)
    assert len(set(answers)) == 8
    server.wait_until_idle()
