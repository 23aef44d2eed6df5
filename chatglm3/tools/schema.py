"""A Python function's signature as the JSON schema that a model reads, and as a check of its arguments."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import docstring_parser
from pydantic import ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

from chatglm3.errors import ToolError

Schema = dict[str, Any]


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
        docstring = docstring_parser.parse(inspect.getdoc(function) or "")
        self.description = docstring.description or ""
        described = {parameter.arg_name: parameter.description for parameter in docstring.params}
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
            self.schema = _simplified(self._model.model_json_schema(schema_generator=_Generator))
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


def _simplified(schema: Schema) -> Schema:
    """Pydantic's schema without what a model need not read: titles, null defaults, indirections.

    Definitions are put in place of their references, but for those that contain themselves.
    """
    definitions: dict[str, Schema] = schema.pop("$defs", {})
    recursive = {name for name in definitions if name in _reachable(definitions[name], definitions)}
    simple = _flat(schema, definitions, recursive)
    simple.pop("additionalProperties", None)
    simple.setdefault("properties", {})
    simple.setdefault("required", [])
    if recursive:
        simple["$defs"] = {
            name: _flat(definitions[name], definitions, recursive) for name in sorted(recursive)
        }
    order = ("type", "properties", "required")
    return {key: simple[key] for key in (*order, *(key for key in simple if key not in order))}


def _flat(schema: Schema, definitions: dict[str, Schema], recursive: set[str]) -> Schema:
    schema = dict(schema)
    if "$ref" in schema and (name := _referenced(schema)) not in recursive:
        del schema["$ref"]
        schema = {**definitions[name], **schema}
        return _flat(schema, definitions, recursive)
    schema.pop("title", None)
    if "default" in schema and schema["default"] is None:
        del schema["default"]
        choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
        if len(choices) == 1:
            del schema["anyOf"]
            return _flat({**choices[0], **schema}, definitions, recursive)
        if choices:
            schema["anyOf"] = choices
    for key, value in schema.items():
        if key in ("properties", "patternProperties"):
            schema[key] = {name: _flat(entry, definitions, recursive) for name, entry in value.items()}
        elif key in ("anyOf", "oneOf", "allOf", "prefixItems"):
            schema[key] = [_flat(entry, definitions, recursive) for entry in value]
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            schema[key] = _flat(value, definitions, recursive)
    schema.pop("discriminator", None)
    order = ("type", "description")
    return {
        key: schema[key] for key in (*order, *(key for key in schema if key not in order)) if key in schema
    }


def _referenced(schema: Schema) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


def _reachable(schema: Any, definitions: dict[str, Schema]) -> set[str]:
    """Names of all definitions that `schema` refers to, directly or not."""
    found: set[str] = set()
    waiting = list(_references(schema))
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _references(definitions[name])
    return found


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield _referenced(schema)
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)
