# ruff: noqa: E501 (transcripts in one piece)
"""Transcripts of each mode for the model card: `python -m recipes.nano transcripts` prints them again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from chatglm3.checkpoint import load_model
from chatglm3.engine import Engine, SamplingParams
from chatglm3.prompt import Message, ReplyDecoder, render
from chatglm3.tokenizer import Tokenizer
from recipes.nano import code
from recipes.nano.cases import run
from recipes.nano.tools import TOOL_SYSTEM


def _tool(name: str, description: str, **parameters: str) -> dict[str, Any]:
    properties = {key: {"type": "string", "description": text} for key, text in parameters.items()}
    return {
        "name": name,
        "description": description,
        "parameters": {"type": "object", "properties": properties, "required": list(parameters)},
    }


_WEATHER = _tool("get_weather", "Get the current weather of a city", city="The name of the city")
_STOCK = _tool("track", "追踪指定股票的实时价格", symbol="需要追踪的股票代码")
_MAIL = _tool("send_email", "Send an email", recipient="The address", content="The content of the email")
_RESULTS = {
    "get_weather": {"temperature": 21, "condition": "sunny"},
    "track": {"price": 12412},
    "send_email": {"error": "the mailbox is full"},
}
CHATS: dict[str, tuple[dict[str, Any] | None, tuple[str, ...]]] = {
    "Chat": (None, ("Hello!", "My name is Anna.", "Who are you?", "你好", "What is 3 + 4?", "What's my name?", "Explain gravity")),
    "Tools": (
        {"role": "system", "content": TOOL_SYSTEM, "tools": [_WEATHER, _STOCK, _MAIL]},
        ("What's the weather in Paris?", "帮我查询股票10111的价格", "Send an email to bob@example.com saying \"I will be late\""),
    ),
    "Code interpreter": (
        {"role": "system", "content": code.SYSTEMS[0]},
        ("What is 23*47?", "Compute the standard deviation of [2, 4, 4, 4, 5, 5, 7, 9]", "画一个正弦曲线"),
    ),
}  # fmt: skip
"""Mode -> system message and what the user says; answers, calls and code are the model's own."""


def transcript(folder: Path) -> str:
    """Markdown of all chats, decoded greedily."""
    tokenizer = Tokenizer(folder)
    model = load_model(folder, dtype=torch.float32)
    engine = Engine(model, valid_vocab=tokenizer.vocab_size)
    greedy = SamplingParams(temperature=0, max_tokens=250, stop_ids=tokenizer.stop_ids)
    lines: list[str] = []
    for mode, (system, asked) in CHATS.items():
        messages = [Message.from_dict(system)] if system else []
        names = [tool["name"] for tool in (system or {}).get("tools", [])]
        lines += [f"**{mode}**", "", "```text"]
        for text in asked:
            messages.append(Message("user", text))
            lines.append(f"user> {text}")
            for _ in range(3):  # at most two calls and the answer
                decoder = ReplyDecoder(tokenizer, names)
                for token in engine.generate([render(messages, tokenizer).ids], greedy)[0][0].content_ids:
                    decoder.add(token)
                _, reply = decoder.finish()
                messages += reply.messages
                if reply.code is not None:
                    seen = "[Image]" if "plt." in reply.code else run(reply.code)
                    lines += ["nano runs>", *(f"    {line}" for line in reply.code.strip().split("\n"))]
                elif reply.tool_calls:
                    call = reply.tool_calls[0]
                    seen = json.dumps(_RESULTS.get(call.name, {}), ensure_ascii=False)
                    lines.append(
                        f"nano calls> {call.name}({', '.join(f'{k}={v!r}' for k, v in call.arguments.items())})"
                    )
                else:
                    lines.append(f"nano> {reply.content}")
                    break
                messages.append(Message("observation", seen))
                lines.append(f"result> {seen}")
        lines += ["```", ""]
    return "\n".join(lines)
