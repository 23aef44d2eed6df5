"""What a person sets on the page."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chatglm3.engine import SamplingParams
from chatglm3.errors import ChatGLM3Error, ToolError
from chatglm3.tools import Tool

OFFLINE_TOOLS = ("calculator", "current_time", "random_number", "convert_distance")
"""What is ticked at first: the built-in tools that ask nobody on the network."""


@dataclass(frozen=True)
class Settings:
    """How answers are made. The defaults are those with which ChatGLM3 was published."""

    system: str = ""
    """The system prompt in Chat and Tool; Code Interpreter has the one that the model was trained with."""
    temperature: float = 0.8
    top_p: float = 0.8
    max_tokens: int = 0
    """Longest reply; 0: what the context has room for."""
    repetition_penalty: float = 1.0
    seed: int | None = None
    tools: tuple[str, ...] = OFFLINE_TOOLS
    """Names of the page's tools that are offered in Tool."""
    definitions: str = ""
    """Own tools, as JSON: one definition or a list. The person gives what their calls return."""
    mcp: tuple[str, ...] = ()
    """Own MCP servers, a URL or a command each."""

    @property
    def sampling(self) -> dict[str, Any]:
        """Fields of a request. Raises InvalidParameterError, naming the value and the remedy."""
        SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
            max_tokens=self.max_tokens or None,
        )
        fields: dict[str, Any] = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "repetition_penalty": self.repetition_penalty,
        }
        if self.seed is not None:
            fields["seed"] = self.seed
        if self.max_tokens:
            fields["max_tokens"] = self.max_tokens
        return fields

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, item: Mapping[str, Any]) -> Settings:
        """What `to_dict` wrote, by this version of the page or another one."""
        known = {field.name for field in dataclasses.fields(cls)}
        values = {name: value for name, value in item.items() if name in known}
        for name in ("tools", "mcp"):
            if name in values:
                values[name] = tuple(values[name])
        return cls(**values)


def read_definitions(text: str) -> list[Tool]:
    """Tools without code from JSON: one definition or a list of them. Raises ToolError."""
    if not text.strip():
        return []
    try:
        items = json.loads(text)
    except ValueError as error:
        raise ToolError(f"the definitions of your tools are not JSON: {error}") from None
    try:
        return [
            Tool.from_definition(item, source="your definitions")
            for item in (items if isinstance(items, list) else [items])
        ]
    except ChatGLM3Error as error:
        raise ToolError(f"the definitions of your tools: {error}") from None
