"""The messages of a conversation, checked where they enter the package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from chatglm3.errors import InvalidMessageError
from chatglm3.prompt.calls import ToolCall, write_call
from chatglm3.prompt.fence import FENCE

Role = Literal["system", "user", "assistant", "observation"]
INTERPRETER = "interpreter"
"""The tool whose calls are programs: the model writes them as they are, without `tool_call(...)`."""
ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    Raises InvalidMessageError for anything that the prompt format cannot express.
    """

    role: Role
    content: str
    metadata: str = ""
    """What stands on the line of the role token: the name of the tool that an assistant message calls."""
    tools: Any = None
    """Of a system message: the definitions of the tools on offer, any JSON; written below the content."""
    loss: bool = True
    """Whether training learns this message. Only assistant messages are ever learnt."""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InvalidMessageError(
                f"unknown role {self.role!r}; a message is from one of {', '.join(ROLES)}"
            )
        for name in ("content", "metadata"):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise InvalidMessageError(
                    f"the {name} of a message must be text, not {value!r:.80} ({self.role})"
                )
        if "\n" in self.metadata:
            raise InvalidMessageError(f"metadata is one line, and {self.metadata!r:.80} has a line break")
        if self.tools is not None and self.role != "system":
            raise InvalidMessageError(
                f"tools are part of a system message, not of a message from {self.role}"
            )
        if not isinstance(self.loss, bool):
            raise InvalidMessageError(f"loss must be true or false, not {self.loss!r}")

    @property
    def learnt(self) -> bool:
        """Whether training takes a loss on what the model writes here."""
        return self.loss and self.role == "assistant"

    @classmethod
    def call(cls, call: ToolCall, *, loss: bool = True) -> Message:
        """The assistant message that makes a tool call; `{"code": ...}` for the interpreter is a program."""
        code = call.arguments.get("code") if call.name == INTERPRETER else None
        if isinstance(code, str) and len(call.arguments) == 1:
            content = f"{FENCE}python\n{code}\n{FENCE}"
        else:
            content = write_call(call)
        return cls("assistant", content, metadata=call.name, loss=loss)

    @classmethod
    def from_dict(cls, item: Mapping[str, Any]) -> Message:
        """A message in ChatGLM3's own dict form: role and content, and perhaps metadata, tools, loss."""
        for name in ("role", "content"):
            if name not in item:
                raise InvalidMessageError(f"a message needs a {name!r}: {dict(item)!r:.200}")
        if unknown := item.keys() - {"role", "content", "metadata", "tools", "loss"}:
            raise InvalidMessageError(
                f"a message has no field {sorted(map(str, unknown))[0]!r}; "
                "it has role, content, metadata, tools, loss"
            )
        content, tools = item["content"], item.get("tools")
        if tools is None and "tools" in item and item["role"] == "system" and isinstance(content, str):
            content += "\nnull"  # the published template goes by the key's presence, and JSON's None is null
        return cls(
            item["role"],
            content,
            metadata="" if item.get("metadata") is None else item["metadata"],
            tools=tools,
            loss=True if item.get("loss") is None else item["loss"],
        )

    def to_dict(self) -> dict[str, Any]:
        """ChatGLM3's own dict form, the inverse of from_dict()."""
        item: dict[str, Any] = {"role": self.role}
        if self.metadata or self.role == "assistant":
            item["metadata"] = self.metadata
        item["content"] = self.content
        if self.tools is not None:
            item["tools"] = self.tools
        if not self.loss:
            item["loss"] = False
        return item
