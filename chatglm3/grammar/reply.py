"""What a whole reply may be, as a Lark grammar over the tokens of ChatGLM3's format.

    ⏎ {"temperature": 3}<|user|>                                    an answer: the first line is empty
    get_weather⏎ ```python⏎tool_call(city='Oslo')⏎```<|observation|>

The space before the first line and before the content is the one that SentencePiece puts in front of a text.
A reply ends with a role's token, as in training, or with eos; both are part of the grammar, so that an answer
ends where nothing more may follow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from chatglm3.errors import GrammarError
from chatglm3.grammar.literals import LiteralGrammar, Schema
from chatglm3.prompt import INTERPRETER
from chatglm3.prompt.fence import FENCE
from chatglm3.tokenizer import Tokenizer

WHITESPACE = r" |\n {0,32}"
"""What may stand between two tokens of JSON, once: a space, or a new line and its indentation."""

JSON_OBJECT: Schema = {"type": "object"}
"""Any JSON object."""

_FREE = "free: /(?s:.*)/"


def reply_form(
    tokenizer: Tokenizer,
    *,
    answer: Schema | Literal["text"] | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
    one_call: bool = False,
) -> str:
    """The grammar of a reply, in Lark's syntax.

    answer: the schema of an answer in JSON, "text" for one in words, None if the reply has to be a call.
    tools: definitions of the tools that may be called; `interpreter` takes code, and has no schema.
    one_call: after a call comes no other.
    Before a call there may be text only if the answer may be text. Raises GrammarError.
    """
    if answer is None and not tools:
        raise GrammarError("the reply has to be a call, and no tool may be called; offer one")
    rules = []
    ends = f"<[{tokenizer.eos_id}]>"
    next_message = f"<[{tokenizer.assistant_id}]>"
    last, before = [], []
    if answer is not None:
        content = "free" if answer == "text" else f"%json {_json_schema(answer)}"
        rules += [f'answer: " "? "\\n" " "? {content}', f"end_of_answer: {ends} | <[{tokenizer.user_id}]>"]
        last.append("answer end_of_answer")
        if answer == "text" and tools:
            before.append("answer")
    if tools:
        literals = LiteralGrammar()
        calls = []
        for tool in tools:
            is_code = tool["name"] == INTERPRETER
            content = "free" if is_code else literals.call(tool.get("parameters") or {})
            name = json.dumps(f"{tool['name']}\n", ensure_ascii=False)
            calls.append(f'" "? {name} " "? "{FENCE}python\\n" {content} "\\n{FENCE}"')
        rules += [f"call: {' | '.join(calls)}", f"end_of_call: {ends} | <[{tokenizer.observation_id}]>"]
        rules.append(literals.text)
        last.append("call end_of_call")
        if not one_call:
            before.append("call")
    if any("free" in rule for rule in rules):
        rules.append(_FREE)
    start = " | ".join(last)
    if before:
        start = f"(({' | '.join(before)}) {next_message})* ({start})"
    return "\n".join([f"start: {start}", *rules])


def _json_schema(schema: Schema) -> str:
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    return json.dumps({**schema, "x-guidance": {"whitespace_pattern": WHITESPACE}}, ensure_ascii=False)
