"""What a dialect asks of a reply, in the words of none: the tools on offer, and the form it must have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from chatglm3.engine import Grammar, SamplingParams
from chatglm3.errors import ChatGLM3Error, InvalidMessageError
from chatglm3.grammar import Schema
from chatglm3.prompt import Message, conversation
from chatglm3.server.answers import Question
from chatglm3.server.core import Core
from chatglm3.server.errors import ApiError, refused


@dataclass(frozen=True)
class ReplyForm:
    """What a reply may be."""

    tools: Sequence[dict[str, Any]] = ()
    """Definitions as the model was trained to see them: name, description, parameters."""
    choice: Literal["none", "auto", "required"] = "auto"
    named: str | None = None
    """The one tool that must be called."""
    one_call: bool = False
    strict: bool = False
    """Whether a call must fit its tool's schema even where none is required."""
    answer: Schema | None = None
    """The schema of an answer in JSON; None for one in words."""

    @property
    def offered(self) -> Sequence[dict[str, Any]]:
        """The tools that the model is shown; with a choice of "none" it sees none, and so can call none."""
        return () if self.choice == "none" else self.tools

    def check(self, tools_param: str = "tools", choice_param: str = "tool_choice") -> None:
        """Raise ApiError for two tools of one name, and for a choice that there is no tool for."""
        names = [tool["name"] for tool in self.tools]
        if len(set(names)) < len(names):
            raise ApiError(400, f"two of the {tools_param} have the same name", param=tools_param)
        if self.choice == "required" and not names:
            raise ApiError(400, "a call is required, and there are no tools", param=choice_param)
        if self.named is not None and self.named not in names:
            raise ApiError(
                400, f"{self.named!r} must be called, and there is no such tool", param=choice_param
            )

    async def grammar(self, core: Core, answer_param: str) -> Grammar | None:
        """What the reply is held to; None if it is free. Raises ApiError for a schema that cannot be."""
        tools, one_call = self.offered, self.one_call
        if self.named is not None:
            only = [tool for tool in tools if tool["name"] == self.named]
            return await core.grammar("tools", tools=only, one_call=True)
        if self.choice == "required":
            return await core.grammar("tools", tools=tools, one_call=one_call)
        if self.answer is not None:
            return await core.grammar(answer_param, answer=self.answer, tools=tools, one_call=one_call)
        if tools and self.strict:
            return await core.grammar("tools", answer="text", tools=tools, one_call=one_call)
        return None

    def question(
        self, core: Core, ids: list[int], params: SamplingParams, stop: Sequence[str] = ()
    ) -> Question:
        """The question that a reply of this form answers."""
        return Question(
            ids,
            core.reply_sampling(params),
            stop=tuple(stop),
            tool_names=frozenset(tool["name"] for tool in self.offered) or None,
            one_call=self.one_call or self.named is not None,
        )


def read_messages(messages: Sequence[Mapping[str, Any]], param: str) -> list[Message]:
    """Messages that a dialect has put into OpenAI's chat notation. Raises ApiError.

    A complaint does not say which message it is about: the client has numbered them differently.
    """
    try:
        return conversation(messages)
    except InvalidMessageError as error:
        text = str(error)
        complaint = text.partition(": ")[2] if text.startswith("message ") else text
        raise refused(InvalidMessageError(complaint), param) from None


def sampling(**given: Any) -> SamplingParams:
    """What the engine is asked for; what is None keeps the engine's default. Raises ApiError."""
    try:
        return SamplingParams(**{name: value for name, value in given.items() if value is not None})
    except ChatGLM3Error as error:
        raise refused(error) from None
