"""A tool: what the model is told of it, and the function that does the work."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, overload

from chatglm3.errors import ToolError
from chatglm3.prompt import INTERPRETER, tool_definitions

_NAME = re.compile(r"[\w./:-]{1,128}")


def _unchecked(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return dict(arguments)


@dataclass(frozen=True, eq=False)
class Tool:
    """One tool. Calling it calls its function."""

    definition: dict[str, Any]
    """What the model reads: `{"name", "description", "parameters": JSON schema}`."""
    function: Callable[..., Any] | None = None
    """Sync or async. None: calls are handed to the caller, who supplies the observation."""
    validate: Callable[[Mapping[str, Any]], dict[str, Any]] = _unchecked
    """Turns a call's arguments into those of the function, or raises ValueError with what is wrong."""
    timeout: float | None = None
    """Seconds; None: that of the toolbox."""
    needs_approval: bool = False
    """It writes, runs or spends something: a program with a person in front of it should ask first."""
    source: str = "the program"
    """Where it comes from, for messages about it."""

    def __post_init__(self) -> None:
        name = self.name
        if not _NAME.fullmatch(name):
            suggestion = re.sub(r"[^\w.-]+", "_", name.strip()).strip("_")[:64] or "my_tool"
            raise ToolError(
                f"a tool cannot be called {name!r} ({self.source}): a name has letters of any script, digits "
                f"and _ . / : -, up to 128 of them; call it {suggestion!r}"
            )
        if self.timeout is not None and not self.timeout > 0:
            raise ToolError(f"the timeout of {name!r} is {self.timeout}, but it must be above 0 seconds")

    @property
    def name(self) -> str:
        """The name by which the model calls it."""
        return str(self.definition["name"])

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the function, as if it had never been decorated."""
        if self.function is None:
            raise ToolError(f"the tool {self.name!r} is a definition without code")
        return self.function(*args, **kwargs)

    @classmethod
    def from_definition(cls, definition: Mapping[str, Any], source: str = "the program") -> Tool:
        """A tool whose calls somebody else answers, from its definition, in OpenAI's wrapping or without.

        Raises InvalidMessageError for what is no definition.
        """
        return cls(tool_definitions([definition])[0], source=source)


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
    needs_approval: bool = False,
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
    needs_approval: bool = False,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a tool of a function, sync or async: `@tool`, or `@tool(name=..., timeout=...)`.

    The schema comes from type hints and docstring, see Parameters. Raises ToolError for a function that a
    model cannot call.
    """
    if function is None:
        return functools.partial(
            _from_function,
            name=name,
            description=description,
            timeout=timeout,
            needs_approval=needs_approval,
        )
    return _from_function(function)


def _from_function(
    function: Callable[..., Any],
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
    needs_approval: bool = False,
) -> Tool:
    try:
        from chatglm3.tools.schema import Parameters
    except ModuleNotFoundError as error:
        raise ToolError(
            f"tools from functions need the package {error.name!r}: pip install 'chatglm3[tools]'"
        ) from None
    if not callable(function) or inspect.isclass(function) or inspect.isasyncgenfunction(function):
        raise ToolError(f"a tool is made of a function that returns its result, not of {function!r:.80}")
    if name is None:
        name = getattr(function, "__name__", None) or type(function).__name__
        if name == "<lambda>":
            raise ToolError("a lambda has no name; write a def, or tool(name=...)(lambda ...)")
    if name == INTERPRETER:
        raise ToolError(f"the name {INTERPRETER!r} is the code interpreter's; choose another one")
    parameters = Parameters(function)
    definition = {
        "name": name,
        "description": (description or parameters.description or name).strip(),
        "parameters": parameters.schema,
    }
    home = getattr(function, "__module__", None) or "the program"
    return Tool(
        definition,
        function,
        parameters.validate,
        timeout,
        needs_approval,
        source=f"the function {getattr(function, '__qualname__', name)} of {home}",
    )
