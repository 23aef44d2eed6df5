"""A Python function's signature as the JSON schema that a model reads, and as a check of its arguments."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import docstring_parser
from pydantic import ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

from chatglm3.errors import ToolError
from chatglm3.tools.simplify import Schema, simplified


class ArgumentsError(ValueError):
    """Arguments that do not fit the parameters; str() tells the model what is wrong."""


class Parameters:
    """The parameters of a function.

    Types come from the annotations, descriptions from `Annotated[str, "the description"]`, from
    `pydantic.Field` or from the docstring (Google, numpy or Sphinx style). The registration style of the
    ChatGLM3 demo, `Annotated[str, "the description", True]`, says as its third item whether the parameter is
    required. Raises ToolError for a signature that a model cannot call.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._where = f"the tool {getattr(function, '__name__', function)!r}"
        self.description, described = _documentation(inspect.getdoc(function) or "")
        hints = self._hints(function)
        self._names: dict[str, str] = {}  # of a field -> of the parameter, which may be any name
        self._filled: dict[str, Any] = {}  # parameters that are optional for the model, not for the function
        fields: dict[str, Any] = {}
        for number, parameter in enumerate(inspect.signature(function).parameters.values()):
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise ToolError(
                    f"{self._where} has the parameter {parameter}, and a model gives its arguments by name; "
                    "write every parameter out, so that it can be given as name=value"
                )
            name = parameter.name
            self._names[f"p{number}"] = name
            fields[f"p{number}"] = self._field(
                name, hints.get(name, Any), parameter.default, described.get(name)
            )
        try:
            self._model = create_model("Arguments", __config__=ConfigDict(extra="forbid"), **fields)
            self.schema = simplified(self._model.model_json_schema(schema_generator=_Generator))
        except (PydanticUserError, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise ToolError(
                f"{self._where} has a parameter whose type JSON cannot express ({reason}); use str, int, "
                "float, bool, list, dict, Literal, a dataclass or a pydantic model"
            ) from None

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments for the function, of the types it declares. Never changes what it is given.

        Raises ArgumentsError.
        """
        try:
            checked = self._model.model_validate(copy.deepcopy(dict(arguments)))
        except ValidationError as error:
            raise ArgumentsError(self._complaint(error)) from None
        except RecursionError:
            raise ArgumentsError("the arguments are nested too deeply") from None
        given = {self._names[field]: getattr(checked, field) for field in checked.model_fields_set}
        return self._filled | given

    def _hints(self, function: Callable[..., Any]) -> dict[str, Any]:
        target = function
        if not (inspect.isroutine(target) or inspect.isclass(target)):
            target = getattr(target, "func", None) or type(target).__call__  # a partial, or an object
        try:
            return get_type_hints(target, include_extras=True)
        except NameError:
            pass
        try:
            return get_type_hints(target, localns=_callers_names(), include_extras=True)
        except NameError as error:
            raise ToolError(
                f"{self._where} has an annotation that cannot be resolved ({error}); define the type at the "
                "top level of the module"
            ) from None

    def _field(self, name: str, hint: Any, default: Any, described: str | None) -> tuple[Any, FieldInfo]:
        """The type and the field of one parameter."""
        required = default is inspect.Parameter.empty
        extras: list[Any] = []
        if get_origin(hint) is Annotated:
            hint, *annotations = get_args(hint)
            for annotation in annotations:
                if isinstance(annotation, str):
                    described = annotation
                elif isinstance(annotation, bool):
                    if not annotation and required:
                        self._filled[name] = None
                    required = annotation
                else:
                    extras.append(annotation)
        if name in self._filled:
            hint = hint | None
        options: dict[str, Any] = {"alias": name}
        if described:
            options["description"] = described
        if not required:
            options["default"] = None if default is inspect.Parameter.empty else default
        return (Annotated[hint, *extras] if extras else hint), Field(**options)

    def _complaint(self, error: ValidationError) -> str:
        problems = []
        for item in error.errors(include_url=False):
            place = _place(item["loc"])
            match item["type"]:
                case "missing":
                    problems.append(f"{place} is missing")
                case "extra_forbidden":
                    problems.append(f"{place} is not a parameter")
                case _:
                    problems.append(f"{place}: {item['msg']} (it is {item['input']!r:.100})")
        required = set(self.schema.get("required", ()))
        known = [
            f"{name} ({_kind(entry)}{'' if name in required else ', optional'})"
            for name, entry in self.schema["properties"].items()
        ]
        return f"{'; '.join(problems)}. The parameters are: {', '.join(known) or 'none'}"


class _Generator(GenerateJsonSchema):
    ignored_warning_kinds = {"non-serializable-default", "skipped-choice"}  # noqa: RUF012 - as its base has it


def _documentation(text: str) -> tuple[str, dict[str, str | None]]:
    """A docstring's description, and those of its parameters."""
    try:
        docstring = docstring_parser.parse(text)
    except docstring_parser.ParseError:  # of no known style
        return text, {}
    described = {parameter.arg_name: parameter.description for parameter in docstring.params}
    return docstring.description or "", described


def _callers_names() -> dict[str, Any]:
    """Local names of the functions that led here: annotations may be written with types defined in one."""
    names: dict[str, Any] = {}
    frame = inspect.currentframe()
    while frame is not None:
        names = frame.f_locals | names
        frame = frame.f_back
    return names


def _place(location: tuple[int | str, ...]) -> str:
    """`items[0].name`"""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "the arguments"


def _kind(schema: Schema) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(map(repr, schema["enum"]))
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    return str(schema.get("type", "any value" if "$ref" not in schema else schema["$ref"].rpartition("/")[2]))
