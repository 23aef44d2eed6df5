"""Calls of tools: whatever the weights, they can be read and fit their schema."""

import json

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatglm3.errors import GrammarError
from chatglm3.prompt import Message, ToolCall, encode_message
from tests.grammar.walk import follows, read, tiny_compiler, walk

NAMES = st.sampled_from(["city", "days", "城市", "first-name", "from", "a", "b", "it's", '"', "x y", ""])
SMALL = st.integers(0, 3)
NUMERIC = st.sampled_from(["integer", "number"])
# llguidance reads a schema's 1.749037914636665e-171 as its neighbour: it may be off by the last bit there.
_FLOATS = st.floats(-1e6, 1e6).map(lambda number: round(number, 6))
SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | _FLOATS | st.text(max_size=5)
VALUES = SCALARS | st.lists(SCALARS, max_size=2)


def between(kind, low, high):
    """Two numbers under the names `low` and `high`, in order."""
    spans = st.tuples(kind, SMALL, SMALL)
    return spans.map(lambda span: {"type": span[0], low: span[1], high: span[1] + span[2]})


LEAVES = st.one_of(
    st.sampled_from([{}, True, {"type": "boolean"}, {"type": "null"}, {"type": "number"}]),
    st.just({"type": ["string", "null"], "maxLength": 3}),
    between(st.just("string"), "minLength", "maxLength"),
    st.just({"type": "string", "pattern": "^[a-c]{1,3}-[0-9]$"}),
    st.just({"type": "string", "format": "date"}),
    between(NUMERIC, "minimum", "maximum"),
    st.tuples(NUMERIC, st.integers(-(10**6), 10**6)).map(lambda t: {"type": t[0], "exclusiveMinimum": t[1]}),
    st.just({"type": "integer", "multipleOf": 5}),
    st.lists(VALUES, min_size=1, max_size=3).map(lambda values: {"enum": values}),
    VALUES.map(lambda value: {"const": value}),
)


def containers(schemas):
    lists = st.lists(schemas, min_size=1, max_size=3)
    return st.one_of(
        st.tuples(schemas, between(st.just("array"), "minItems", "maxItems")).map(
            lambda t: {"items": t[0], **t[1]}
        ),
        st.tuples(lists, SMALL).map(tuple_of),
        schemas.map(lambda values: {"type": "object", "additionalProperties": values}),
        lists.map(lambda options: {"anyOf": options}),
        objects(schemas),
    )


def tuple_of(items_and_least):
    items, least = items_and_least
    return {"type": "array", "prefixItems": items, "items": False, "minItems": min(least, len(items))}


@st.composite
def objects(draw, schemas):
    properties = draw(st.dictionaries(NAMES, schemas, max_size=4))
    required = [name for name in properties if draw(st.booleans())]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


PARAMETERS = objects(st.recursive(LEAVES, containers, max_leaves=6))


@settings(max_examples=150)
@given(PARAMETERS, st.integers(0, 2**32))
def test_calls_can_be_read_and_fit_their_schema(parameters, seed):
    tokenizer, compiler = tiny_compiler()
    grammar = compiler.reply(tools=[{"name": "f", "parameters": parameters}], one_call=True)
    ids, ended = walk(grammar, tokenizer, seed)
    if not ended:
        return
    reply = read(ids, tokenizer, {"f"})
    assert reply.problems == []
    assert reply.content == ""
    [call] = reply.tool_calls
    jsonschema.validate(call.arguments, parameters)
    assert ids[-1] in (tokenizer.eos_id, tokenizer.observation_id)


WEATHER = {
    "name": "get_weather",
    "description": "The weather.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
            "unit": {"enum": ["°C", "°F"]},
            "when": {"$ref": "#/$defs/When"},
        },
        "required": ["city"],
        "$defs": {
            "When": {
                "type": "object",
                "properties": {"after": {"$ref": "#/$defs/When"}, "note": {"type": ["string", "null"]}},
            }
        },
    },
}


@pytest.mark.parametrize(
    "arguments",
    [
        {"city": "北京"},
        {"days": 3, "city": "Zürich 🏔️", "unit": "°C"},
        {"city": 'it\'s\n"here" \\ \x00 \u200b'},
        {"city": "x", "when": {"after": {"after": {}, "note": None}, "note": "ʕ•ᴥ•ʔ"}},
    ],
)
def test_what_a_trained_model_writes_is_allowed_as_it_writes_it(tools, arguments):
    tokenizer, compiler = tools
    call = encode_message(Message.call(ToolCall("get_weather", arguments)), tokenizer)[1:]
    thought = encode_message(Message("assistant", "Let me see. 我看看。"), tokenizer)[1:]
    once = compiler.reply(tools=[WEATHER], one_call=True)
    assert follows(once, [*call, tokenizer.observation_id])
    assert follows(once, [*call, tokenizer.eos_id])
    assert not follows(once, [*call, tokenizer.user_id])
    assert not follows(once, [*thought, tokenizer.user_id])
    several = [*call, tokenizer.assistant_id, *call, tokenizer.observation_id]
    assert not follows(once, several)
    assert follows(compiler.reply(tools=[WEATHER]), several)
    free = compiler.reply(tools=[WEATHER], answer="text")
    assert follows(free, [*thought, tokenizer.user_id])
    assert follows(free, [*thought, tokenizer.assistant_id, *several])
    assert not follows(free, [*thought, tokenizer.observation_id])


@pytest.mark.parametrize(
    "arguments", [{}, {"days": 3}, {"city": 1}, {"city": "x", "days": 15}, {"city": "x", "zip": 1}]
)
def test_what_does_not_fit_is_not_allowed(arguments):
    tokenizer, compiler = tiny_compiler()
    call = encode_message(Message.call(ToolCall("get_weather", arguments)), tokenizer)[1:]
    assert not follows(compiler.reply(tools=[WEATHER]), [*call, tokenizer.eos_id])


def test_one_of_several_tools_is_called_each_by_its_own_schema():
    tokenizer, compiler = tiny_compiler()
    tools = {
        name: {"type": "object", "properties": {name: {"type": "boolean"}}, "required": [name]}
        for name in "abc"
    }
    grammar = compiler.reply(tools=[{"name": n, "parameters": p} for n, p in tools.items()])
    called = set()
    for seed in range(60):
        ids, ended = walk(grammar, tokenizer, seed)
        assert ended
        for call in read(ids, tokenizer, set(tools)).tool_calls:
            jsonschema.validate(call.arguments, tools[call.name])
            assert set(call.arguments) == {call.name}
            called.add(call.name)
    assert called == set(tools)


def test_a_recursive_schema_ends_somewhere():
    tokenizer, compiler = tiny_compiler()
    tree = {
        "type": "object",
        "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}},
        "additionalProperties": False,
    }
    grammar = compiler.reply(tools=[{"name": "f", "parameters": tree}])
    constraint, ids = grammar.begin(), []
    while len(ids) < 3000:  # always deeper, as long as there is a way
        allowed = constraint.allowed().nonzero()[0].tolist()
        deeper = [id for id in allowed if b"}" not in tokenizer.token_bytes(id)]
        ids.append((deeper or allowed)[0] if not {tokenizer.eos_id} & set(allowed) else tokenizer.eos_id)
        if constraint.accept(ids[-1]):
            break
    [call] = read(ids, tokenizer, {"f"}).tool_calls
    jsonschema.validate(call.arguments, tree)


@pytest.mark.parametrize("parameters", [None, {}, {"type": "object"}, {"type": "object", "properties": {}}])
def test_a_tool_without_parameters_is_called_without_arguments(parameters):
    tokenizer, compiler = tiny_compiler()
    ids, ended = walk(
        compiler.reply(tools=[{"name": "now", "parameters": parameters}], one_call=True), tokenizer, 0
    )
    assert ended
    assert read(ids, tokenizer, {"now"}).tool_calls == [ToolCall("now", {})]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "strin"}, "Invalid type: strin"),
        ({"type": "string", "pattern": "(?=a)b"}, "regex parse error"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"enum": []}, "Unsatisfiable"),
        ({"$ref": "#/$defs/missing"}, "missing"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf"),
        ({"type": "object", "patternProperties": {"^a": {}}}, "'patternProperties' cannot be guaranteed"),
        ({"allOf": [{"type": "string"}, {"maxLength": 3}]}, "'allOf' of several schemas"),
        ({"type": "string", "anyOf": [{"maxLength": 3}]}, "'type' beside 'anyOf'"),
        ({"const": "\ud800"}, "hex escape"),
        (3, "schema"),
    ],
)  # fmt: skip
def test_a_schema_that_cannot_be_guaranteed_is_refused_with_the_reason(schema, reason):
    _, compiler = tiny_compiler()
    with pytest.raises(GrammarError, match=reason):
        compiler.reply(tools=[tool_of(schema)])


def test_what_is_no_objects_schema_is_refused():
    _, compiler = tiny_compiler()
    for parameters in ({"type": "string"}, {"anyOf": [{"type": "object"}]}, [1], "x"):
        with pytest.raises(GrammarError, match=r"object|properties|schema"):
            compiler.reply(tools=[{"name": "f", "parameters": parameters}])
    many = {"type": "object", "properties": {f"p{i}": {} for i in range(65)}}
    with pytest.raises(GrammarError, match="65 properties"):
        compiler.reply(tools=[{"name": "f", "parameters": many}])
    with pytest.raises(GrammarError, match="no tool may be called"):
        compiler.reply()


def test_hostile_schemas_take_no_time():
    tokenizer, compiler = tiny_compiler()
    deep = {}
    for _ in range(5000):
        deep = {"items": deep}
    for schema in (deep, {"$ref": "#/properties/a"}):
        with pytest.raises(GrammarError, match=r"deep|depth"):
            compiler.reply(tools=[tool_of(schema)])
    for pattern in (
        "(((a{1,999}){1,999}){1,999}){1,999}",
        "^(a|b|ab)*c{5,500}(x|y){1,2000}.*(foo|bar){3,80}$",
    ):
        grammar = compiler.reply(tools=[tool_of({"type": "string", "pattern": pattern})])
        walk(grammar, tokenizer, 0, most=100)


def tool_of(schema):
    return {"name": "f", "parameters": {"type": "object", "properties": {"a": schema}, "required": ["a"]}}


def test_schemas_are_remembered():
    _, compiler = tiny_compiler()
    assert compiler.reply(tools=[WEATHER]) is compiler.reply(tools=[json.loads(json.dumps(WEATHER))])
    assert compiler.reply(tools=[WEATHER]) is not compiler.reply(tools=[WEATHER], one_call=True)
