"""Tool calls as the model writes them: data in Python's notation, which is read and never run.

```python
tool_call(city='北京', days=3)
```
"""

from __future__ import annotations

import ast
import json
import keyword
import math
import unicodedata
from dataclasses import dataclass, field
from typing import Any

from chatglm3.errors import InvalidMessageError
from chatglm3.prompt.fence import FENCE, fenced_code


@dataclass(frozen=True)
class ToolCall:
    """One call of a tool; the arguments are JSON values."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    id: str | None = None
    """What the caller knows the call by, if anything; the model never sees it."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip() or "\n" in self.name:
            raise InvalidMessageError(f"a tool's name is one line of text, not {self.name!r:.80}")


class CallSyntaxError(ValueError):
    """A call that cannot be read; str() is the reason."""


def write_call(call: ToolCall) -> str:
    """The content of the assistant message that makes `call`; its metadata is the tool's name.

    Names that are no Python identifiers (`first-name`, `from`) cannot stand before a `=`; the arguments are
    then written as one dict. Raises InvalidMessageError for a value that is not JSON.
    """
    try:
        text = json.dumps(call.arguments, allow_nan=False, ensure_ascii=False)
        text.encode()
        arguments = json.loads(text)
        if not isinstance(arguments, dict):
            raise TypeError(f"{type(arguments).__name__} is not a dict")
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidMessageError(
            f"the arguments of the call to {call.name!r} are not a JSON object: {error}"
        ) from None
    if all(map(is_keyword_name, arguments)):
        source = f"tool_call({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"
    else:
        source = repr(arguments)
    return f"{FENCE}python\n{source}\n{FENCE}"


def read_call(name: str, content: str) -> ToolCall:
    """The call in `content`: `tool_call(...)`, `{name}(...)` or a dict, of literals, in a fence or without.

    Raises CallSyntaxError with the reason; nothing else, whatever the content.
    """
    try:
        node = ast.parse(fenced_code(content).strip(), mode="eval").body
        return ToolCall(name, _arguments(node, {"tool_call", name}))
    except CallSyntaxError:
        raise
    except SyntaxError as error:
        raise CallSyntaxError(f"{error.msg} (line {error.lineno})") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise CallSyntaxError(str(error) or "nested too deeply") from None


def is_keyword_name(name: str) -> bool:
    """Whether an argument of this name can be written as `name=value`."""
    # Python reads identifiers in NFKC form, so another form would not come back.
    return name.isidentifier() and not keyword.iskeyword(name) and unicodedata.normalize("NFKC", name) == name


def _arguments(node: ast.expr, function_names: set[str]) -> dict[str, Any]:
    if isinstance(node, ast.Dict):
        return _dict(node)
    if not (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in function_names
    ):
        raise CallSyntaxError(f"expected tool_call(name=value, ...), not {_source(node)}")
    if node.args:
        raise CallSyntaxError(f"the argument {_source(node.args[0])} has no name")
    arguments: dict[str, Any] = {}
    for argument in node.keywords:
        if argument.arg is None:
            raise CallSyntaxError(f"** is not allowed, and {_source(argument.value)} follows it")
        if argument.arg in arguments:
            raise CallSyntaxError(f"the argument {argument.arg} is repeated")
        arguments[argument.arg] = _value(argument.value)
    return arguments


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | None):
            return node.value
        case ast.Constant(value=float(number)) if math.isfinite(number):
            return number
        case ast.Constant(value=str(text)) if _is_text(text):
            return text
        case ast.UnaryOp(
            op=ast.USub() | ast.UAdd(), operand=ast.Constant(value=int() | float() as number)
        ) if not isinstance(number, bool) and math.isfinite(number):
            return -number if isinstance(node.op, ast.USub) else number
        case ast.List() | ast.Tuple():
            return [_value(item) for item in node.elts]
        case ast.Dict():
            return _dict(node)
    raise CallSyntaxError(f"{_source(node)} is not a plain value")


def _dict(node: ast.Dict) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in zip(node.keys, node.values):
        if not (isinstance(key, ast.Constant) and isinstance(key.value, str) and _is_text(key.value)):
            raise CallSyntaxError(f"{_source(key) if key else '**'} is not a text key")
        result[key.value] = _value(value)  # of a repeated key the last value holds, as in Python and JSON
    return result


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # '\ud83d': half a character
        return False
    return True


def _source(node: ast.expr) -> str:
    source = ast.unparse(node)
    return source if len(source) <= 80 else source[:79] + "…"
