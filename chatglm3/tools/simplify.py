"""JSON schemas as a small model can read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Schema = dict[str, Any]

_DEFINITION = "#/$defs/"


def simplified(schema: Mapping[str, Any]) -> Schema:
    """The schema of an object without what a model need not read: titles, null defaults, indirections.

    Definitions are put in place of their references, but for those that contain themselves.
    """
    definitions: dict[str, Schema] = schema.get("$defs", {})
    recursive = {name for name in definitions if name in _reachable(definitions[name], definitions)}
    used = recursive & _reachable({**schema, "$defs": {}}, definitions)
    simple = _flat({**schema, "type": "object"}, definitions, recursive)
    for key in ("$schema", "$defs", "additionalProperties"):
        simple.pop(key, None)
    simple.setdefault("properties", {})
    simple.setdefault("required", [])
    if used:
        simple["$defs"] = {name: _flat(definitions[name], definitions, recursive) for name in sorted(used)}
    return _ordered(simple, "type", "properties", "required")


def _flat(schema: Any, definitions: Mapping[str, Schema], recursive: set[str]) -> Any:
    if not isinstance(schema, dict):  # true and false are schemas as well
        return schema
    schema = dict(schema)
    if (name := _referenced(schema)) in definitions and name not in recursive:
        del schema["$ref"]
        return _flat({**definitions[name], **schema}, definitions, recursive)
    schema.pop("title", None)
    schema.pop("discriminator", None)
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
        elif key in ("items", "additionalProperties"):
            schema[key] = _flat(value, definitions, recursive)
    return _ordered(schema, "type", "description")


def _ordered(schema: Schema, *first: str) -> Schema:
    keys = [*(key for key in first if key in schema), *(key for key in schema if key not in first)]
    return {key: schema[key] for key in keys}


def _referenced(schema: Schema) -> str:
    """The name of the definition that a schema stands for; empty if it stands for itself."""
    reference = str(schema.get("$ref", ""))
    return reference.removeprefix(_DEFINITION) if reference.startswith(_DEFINITION) else ""


def _reachable(schema: Any, definitions: Mapping[str, Schema]) -> set[str]:
    """Names of all definitions that `schema` refers to, directly or not."""
    found: set[str] = set()
    waiting = list(_references(schema))
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _references(definitions.get(name))
    return found


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if name := _referenced(schema):
            yield name
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)
