"""JSON Schema to a Lark grammar of Python literals: how the arguments of a tool call may be written.

The model writes a call in Python's notation, `tool_call(city='Oslo', days=3)`, and not in JSON, so the JSON
grammars of the libraries do not fit. What they do well is kept: llguidance reads the schema first and refuses
what is malformed, contradictory or unknown to it, and writes patterns, formats and ranges of numbers, where
the two notations agree.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from chatglm3.errors import GrammarError
from chatglm3.prompt.calls import is_keyword_name

Schema: TypeAlias = "Mapping[str, Any] | bool"
"""A JSON schema as Python data."""

_DEPTH = 32
"""Containers and references inside each other; a recursive schema ends there."""

_FREE_DEPTH = 4
"""Containers inside each other where the schema says nothing."""

_PROPERTIES = 64
"""Bits in which llguidance counts which properties have been written."""

_WHOLE = {"$ref", "const", "enum", "anyOf", "oneOf", "allOf"}
"""Each of these says all there is to say about a value, so that nothing may stand beside it."""
_BY_TYPE = {
    "string": {"minLength", "maxLength", "pattern", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
}
_VALIDATORS = _WHOLE.union({"type"}, *_BY_TYPE.values())
_UNSUPPORTED = {"patternProperties", "minProperties", "maxProperties", "additionalItems"}
"""What llguidance takes in JSON, and this module has no rule for."""

_ESCAPE = r"""\\(['"\\nrt]|x[0-9a-f]{2}|u([0-9a-ce-f][0-9a-f]{3}|d[0-7][0-9a-f]{2}))"""


def _string(length: str = "*") -> str:
    """A regex for a string of so many characters; not for half ones, and none that would end the line."""
    return "|".join(rf"{quote}([^{quote}\\\x00-\x1f\x7f]|{_ESCAPE}){length}{quote}" for quote in "'\"")


# Numbers have bounds, so that none of them is too long to be read, or infinite.
_TERMINALS = rf"""
COMMA: /, ?/
COLON: /: ?/
STRING: /{_string()}/
INTEGER: /-?(0|[1-9][0-9]{{0,18}})/
NUMBER: /-?(0|[1-9][0-9]{{0,18}})(\.[0-9]{{1,18}})?([eE][+-]?[0-9]{{1,2}})?/
"""

_WIDE = 10**15  # the other end of a range that has one end


class LiteralGrammar:
    """Collects the rules for the calls of any number of tools."""

    def __init__(self) -> None:
        self._rules: dict[str, str] = {}  # body -> name
        self._parametric: list[str] = []

    @property
    def text(self) -> str:
        """All rules, in Lark's syntax as llguidance reads it."""
        rules = [f"{name}: {body}" for body, name in self._rules.items()]
        return "\n".join([_TERMINALS.strip(), *rules, *self._parametric, ""])

    def call(self, parameters: Schema) -> str:
        """The name of a rule for `tool_call(...)` with arguments that the schema allows, in any order.

        Raises GrammarError for a schema that is no object's, or that cannot be guaranteed.
        """
        return _Translator(self, parameters).call()

    def rule(self, body: str) -> str:
        """The name of a rule with this body."""
        return self._rules.setdefault(body, f"r{len(self._rules)}")

    def selection(self, members: Sequence[tuple[str, bool]]) -> str:
        """A rule for the members (rule, whether it is required) in any order, with commas, each at most once.

        The parameter of the rule is the set of those that are written already, one bit each.
        """
        members = sorted(members, key=lambda member: not member[1])
        required = sum(needed for _, needed in members)
        if len(members) > _PROPERTIES:
            raise GrammarError(
                f"an object has {len(members)} properties, and at most {_PROPERTIES} can be guaranteed"
            )
        rest = f"s{len(self._parametric)}"
        first = [f"{member} {rest}::{1 << bit:#x}" for bit, (member, _) in enumerate(members)]
        more = [f'"" %if is_ones([0:{required}])' if required else '""']
        more += [
            f"COMMA {member} {rest}::set_bit({bit}) %if bit_clear({bit})"
            for bit, (member, _) in enumerate(members)
        ]
        self._parametric.append(f"{rest}::_: {' | '.join(more)}")
        return self.rule(" | ".join(first if required else ['""', *first]))


class _UnsatisfiableError(Exception):
    """Nothing fits this part of a schema, or only something nested too deeply."""


class _Translator:
    """Rules for one schema, to whose parts its references point."""

    def __init__(self, grammar: LiteralGrammar, root: Schema) -> None:
        self._grammar = grammar
        self._root = root
        self._references: dict[tuple[str, int], str | None] = {}

    def call(self) -> str:
        schema = self._root
        for _ in range(_DEPTH):
            if not isinstance(schema, Mapping) or "$ref" not in schema:
                break
            schema = self._target(schema["$ref"])
        if not isinstance(schema, Mapping) or not _has_type({}, schema.get("type")):
            raise GrammarError(f"the parameters of a tool are an object's schema, not {_short(schema)}")
        combined = sorted(_WHOLE & set(schema))
        if combined:
            raise GrammarError(
                f"the parameters of a tool have {combined[0]!r} at the top, besides properties"
            )
        self._check(schema)
        try:
            members = self._properties(schema, depth=0)
            if not members and schema.get("additionalProperties"):  # any names at all, if it says so
                return self._grammar.rule(self._map(schema["additionalProperties"], 0))
            if all(is_keyword_name(name) for name, _, _ in members):
                arguments = [(f'"{name}=" {value}', needed) for name, value, needed in members]
                written = self._grammar.selection(arguments) if arguments else ""
                return self._grammar.rule(f'"tool_call(" {written} ")"')
            return self._dict(members)
        except _UnsatisfiableError:
            raise GrammarError(f"no arguments of a reasonable depth fit {_short(schema)}") from None

    def _value(self, schema: Any, depth: int) -> str:
        """The name of a rule for the values that a schema allows."""
        if schema is False or depth > _DEPTH:
            raise _UnsatisfiableError
        if schema is True:
            return self._anything(_FREE_DEPTH)
        if not isinstance(schema, Mapping):
            raise GrammarError(f"a schema is an object or a boolean, not {_short(schema)}")
        self._check(schema)
        for keyword in schema:
            match keyword:
                case "$ref":
                    return self._reference(schema[keyword], depth)
                case "const" | "enum":
                    values = [schema[keyword]] if keyword == "const" else schema[keyword]
                    return self._one_of([_literal(v) for v in values if _has_type(v, schema.get("type"))])
                case "anyOf" | "oneOf" | "allOf":  # llguidance has seen that a oneOf's choices are disjoint
                    return self._any_of(partial(self._value, option, depth) for option in schema[keyword])
        types = schema.get("type") or [t for t, words in _BY_TYPE.items() if words & set(schema)]
        if not types:
            return self._anything(_FREE_DEPTH)
        kinds = [types] if isinstance(types, str) else types
        return self._any_of(partial(self._typed, kind, schema, depth) for kind in kinds)

    def _check(self, schema: Mapping[str, Any]) -> None:
        """Refuse what no rule below would guarantee. Unknown keywords are annotations by the standard."""
        unsupported = sorted(_UNSUPPORTED & set(schema))
        if unsupported:
            raise GrammarError(
                f"{unsupported[0]!r} cannot be guaranteed in the arguments of a call: {_short(schema)}"
            )
        combined = [keyword for keyword in schema if keyword in _WHOLE]
        if not combined:
            return
        allowed = {combined[0], "type"} if combined[0] in ("const", "enum") else {combined[0]}
        beside = [keyword for keyword in schema if keyword in _VALIDATORS - allowed]
        if beside:
            raise GrammarError(
                f"{beside[0]!r} beside {combined[0]!r} cannot be guaranteed in the arguments of a call; "
                f"write one schema for both: {_short(schema)}"
            )
        if combined[0] == "allOf" and len(schema["allOf"]) != 1:
            raise GrammarError(
                "an 'allOf' of several schemas cannot be guaranteed in the arguments of a call; "
                f"write one schema for all: {_short(schema)}"
            )

    def _any_of(self, options: Iterable[Callable[[], str]]) -> str:
        """A rule for whichever of the options can be satisfied."""
        found = []
        for option in options:
            with contextlib.suppress(_UnsatisfiableError):
                found.append(option())
        return self._one_of(found)

    def _one_of(self, options: Sequence[str]) -> str:
        if not options:
            raise _UnsatisfiableError
        return self._grammar.rule(" | ".join(options))

    def _typed(self, kind: str, schema: Mapping[str, Any], depth: int) -> str:
        match kind:
            case "null":
                return '"None"'
            case "boolean":
                return '"True" | "False"'
            case "integer" | "number":
                return self._number(kind, schema)
            case "string":
                return self._text(schema)
            case "array":
                return self._list(schema, depth)
            case "object":
                if not schema.get("properties") and not schema.get("required"):
                    return self._map(schema.get("additionalProperties", True), depth)
                return self._dict(self._properties(schema, depth))
        raise GrammarError(f"there is no type {kind!r} in JSON Schema")

    def _number(self, kind: str, schema: Mapping[str, Any]) -> str:
        limits = {key: value for key, value in schema.items() if key in _BY_TYPE["number"]}
        if not limits:
            return kind.upper()
        widest = max([_WIDE, *(10 * abs(value) for value in limits.values())])
        if not limits.keys() & {"minimum", "exclusiveMinimum"}:
            limits["minimum"] = -widest
        if not limits.keys() & {"maximum", "exclusiveMaximum"}:
            limits["maximum"] = widest
        return _json({"type": kind, **limits})

    def _text(self, schema: Mapping[str, Any]) -> str:
        limits = {key: value for key, value in schema.items() if key in _BY_TYPE["string"]}
        if not limits:
            return "STRING"
        if limits.keys() & {"pattern", "format"}:
            return _json({"type": "string", **limits})
        least, most = limits.get("minLength", 0), limits.get("maxLength", "")
        return f"/{_string(f'{{{least},{most}}}')}/"

    def _list(self, schema: Mapping[str, Any], depth: int) -> str:
        first = [self._value(item, depth + 1) for item in schema.get("prefixItems", ())]
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        try:
            other = self._value(schema.get("items", True), depth + 1)
        except _UnsatisfiableError:
            most = len(first) if most is None else min(most, len(first))
            other = ""
        if most is not None and least > most:
            raise _UnsatisfiableError
        lengths = []  # the list's beginning, of every length that the grammar must tell apart
        for length in range(least, len(first) + 1 if most is None else min(most, len(first)) + 1):
            lengths.append(" COMMA ".join(first[:length]) or '""')
        if most is None or most > len(first):
            more = _times(max(least - len(first), 1) - 1, None if most is None else most - len(first) - 1)
            lengths.append(" COMMA ".join([*first, f"{other} (COMMA {other}){more}" if more else other]))
        return f'"[" ({" | ".join(lengths)}) "]"'

    def _map(self, values: Any, depth: int) -> str:
        try:
            pair = f"STRING COLON {self._value(values, depth + 1)}"
        except _UnsatisfiableError:
            return '"{}"'
        return f'"{{" ({pair} (COMMA {pair})*)? "}}"'

    def _properties(self, schema: Mapping[str, Any], depth: int) -> list[tuple[str, str, bool]]:
        """(name, rule for its value, whether it is required) of every property that can be written."""
        declared, required = schema.get("properties", {}), schema.get("required", ())
        others = schema.get("additionalProperties", True)
        members = []
        for name in dict.fromkeys([*declared, *required]):
            try:
                value = self._value(declared.get(name, others), depth + 1)
            except _UnsatisfiableError:
                if name in required:
                    raise
                continue
            members.append((name, value, name in required))
        return members

    def _dict(self, members: list[tuple[str, str, bool]]) -> str:
        pairs = [(f"{_literal(name)} COLON {value}", needed) for name, value, needed in members]
        written = self._grammar.selection(pairs) if pairs else ""
        return self._grammar.rule(f'"{{" {written} "}}"')

    def _anything(self, levels: int) -> str:
        simple = 'STRING | NUMBER | "True" | "False" | "None"'
        if not levels:
            return self._grammar.rule(simple)
        inner = self._anything(levels - 1)
        items = f'"[" ({inner} (COMMA {inner})*)? "]"'
        pairs = f'"{{" (STRING COLON {inner} (COMMA STRING COLON {inner})*)? "}}"'
        return self._grammar.rule(f"{simple} | {items} | {pairs}")

    def _reference(self, pointer: str, depth: int) -> str:
        key = (pointer, depth)
        if key not in self._references:
            try:
                self._references[key] = self._value(self._target(pointer), depth + 1)
            except _UnsatisfiableError:
                self._references[key] = None
        name = self._references[key]
        if name is None:
            raise _UnsatisfiableError
        return name

    def _target(self, pointer: Any) -> Any:
        """What a reference such as `#/$defs/Place` points to."""
        found: Any = self._root
        if not isinstance(pointer, str) or not pointer.startswith("#"):
            raise GrammarError(
                f"the reference {pointer!r} leads out of the schema; copy its target into $defs"
            )
        for step in pointer.removeprefix("#").split("/")[1:]:
            part = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, Mapping) and part in found:
                found = found[part]
            elif isinstance(found, list) and part.isdigit() and int(part) < len(found):
                found = found[int(part)]
            else:
                raise GrammarError(f"the reference {pointer!r} leads nowhere in the schema")
        return found


def _times(least: int, most: int | None) -> str:
    """How often something is repeated, in Lark's syntax; empty if not at all."""
    if most == 0:
        return ""
    return f"{{{least},{'' if most is None else most}}}"


def _json(schema: Mapping[str, Any]) -> str:
    """A JSON string or number whose notation is Python's as well."""
    options = {"whitespace_flexible": False, "json_allowed_escapes": 'nrbtf\\"'}
    return f"%json {json.dumps({**schema, 'x-guidance': options}, ensure_ascii=False)}"


def _literal(value: Any) -> str:
    """Lark's string for a JSON value in Python's notation."""
    text = repr(value)
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:  # UnicodeEncodeError is one
        raise GrammarError(f"{text:.80} is no JSON value: {error}") from None
    return json.dumps(text, ensure_ascii=False)


def _has_type(value: Any, types: str | Sequence[str] | None) -> bool:
    if types is None:
        return True
    match value:
        case None:
            kinds = {"null"}
        case bool():
            kinds = {"boolean"}
        case int():
            kinds = {"integer", "number"}
        case float():
            kinds = {"number", "integer"} if value.is_integer() else {"number"}
        case str():
            kinds = {"string"}
        case Mapping():
            kinds = {"object"}
        case _:
            kinds = {"array"}
    return bool(kinds & {types} if isinstance(types, str) else kinds & set(types))


def _short(schema: Any) -> str:
    return f"{schema!r:.120}"
