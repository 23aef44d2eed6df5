"""Answers in JSON: whatever the weights, they are JSON and fit their schema."""

import json

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatglm3.engine import GREEDY, Engine, SamplingParams
from chatglm3.errors import GrammarError
from chatglm3.grammar import JSON_OBJECT
from chatglm3.prompt import Message, encode_message
from tests.grammar.test_calls import PARAMETERS, WEATHER, tool_of
from tests.grammar.walk import closing_ids, follows, read, tiny_compiler, walk
from tests.tiny import tiny_config, tiny_model

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 150}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@settings(max_examples=100)
@given(PARAMETERS, st.integers(0, 2**32))
def test_answers_fit_their_schema(schema, seed):
    tokenizer, compiler = tiny_compiler()
    ids, ended = walk(compiler.reply(answer=schema), tokenizer, seed)
    if ended:
        jsonschema.validate(json.loads(read(ids, tokenizer, set()).content), schema)
        assert ids[-1] in (tokenizer.eos_id, tokenizer.user_id)


def test_any_object():
    tokenizer, compiler = tiny_compiler()
    answers = [walk(compiler.reply(answer=JSON_OBJECT), tokenizer, seed) for seed in range(40)]
    read_back = [json.loads(tokenizer.decode(ids[:-1])) for ids, ended in answers if ended]
    assert len(read_back) > 20
    assert all(isinstance(answer, dict) for answer in read_back)


@pytest.mark.parametrize("indent", [None, 2, 4])
@pytest.mark.parametrize("name", ["Ann", "李雷", "🧑‍🚀", "a\tb\u0000", "ʕ•ᴥ•ʔ", '"\\'])
def test_json_is_allowed_as_a_trained_model_writes_it(tools, name, indent):
    tokenizer, compiler = tools
    text = json.dumps({"name": name, "age": 7}, indent=indent, ensure_ascii=False)
    ids = encode_message(Message("assistant", text), tokenizer)[1:]
    grammar = compiler.reply(answer=PERSON)
    assert follows(grammar, [*ids, tokenizer.user_id])
    assert follows(grammar, [*ids, tokenizer.eos_id])
    assert not follows(grammar, [*ids, tokenizer.observation_id])
    assert not follows(grammar, [*ids[:-1], tokenizer.eos_id])


def test_half_a_character_must_be_completed(tools):
    tokenizer, compiler = tools
    constraint = compiler.reply(answer={"type": "string"}).begin()
    for id in [*tokenizer.encode("\n"), *tokenizer.encode('"')]:
        constraint.accept(id)
    for byte in "🏔".encode()[:3]:
        id = next(i for i, b in tokenizer._bytes.items() if b == byte)
        assert constraint.allowed()[id]
        constraint.accept(id)
    following = constraint.allowed().nonzero()[0].tolist()
    assert {tokenizer.token_bytes(id) for id in following} == {bytes([b]) for b in range(0x80, 0xC0)}


def test_white_space_ends(tools):
    tokenizer, compiler = tools
    blank = [id for id in range(tokenizer.vocab_size) if tokenizer.token_bytes(id).strip(b" \n\t\r") == b""]
    blank = [id for id in blank if tokenizer.token_bytes(id)]
    flags = {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2}
    for form in ({"answer": flags}, {"tools": [tool_of(flags)]}):
        constraint, run, longest = compiler.reply(**form, one_call=True).begin(), 0, 0
        for _ in range(400):  # blank wherever it may be
            allowed = constraint.allowed()
            choice = next((id for id in blank if allowed[id]), None)
            if choice is None:
                closers = [id for id in closing_ids(tokenizer) if allowed[id]]
                choice = (closers or allowed.nonzero()[0].tolist())[0]
            run = run + 1 if choice in blank else 0
            longest = max(run, longest)
            if constraint.accept(choice):
                break
        else:
            pytest.fail("the answer did not end")
        assert longest < 40


def test_the_range_of_64_bits_is_taken():
    tokenizer, compiler = tiny_compiler()
    schema = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
    for form in ({"answer": schema}, {"tools": [tool_of(schema)]}):
        ids, ended = walk(compiler.reply(**form, one_call=True), tokenizer, 1)
        assert ended
        assert len(ids) < 100


def test_an_answer_or_a_call():
    tokenizer, compiler = tiny_compiler()
    tool = tool_of({"type": "boolean"})
    grammar = compiler.reply(answer=PERSON, tools=[tool])
    kinds = set()
    for seed in range(60):
        ids, ended = walk(grammar, tokenizer, seed)
        assert ended
        reply = read(ids, tokenizer, {"f"})
        assert not reply.problems
        kinds.add((bool(reply.content), len(reply.tool_calls) > 0))
        if reply.content:
            jsonschema.validate(json.loads(reply.content), PERSON)
    assert kinds >= {(True, False), (False, True)}


def test_a_schema_that_cannot_be_guaranteed_is_refused_with_the_reason():
    _, compiler = tiny_compiler()
    for schema, reason in (
        ({"not": {}}, "not"),
        ({"type": "x"}, "x"),
        (False, "false"),
        ({"a": {1}}, "JSON"),
    ):
        with pytest.raises(GrammarError, match=reason):
            compiler.reply(answer=schema)


def test_random_weights_answer_by_their_schemas_beside_free_answers():
    tokenizer, compiler = tiny_compiler()
    model = tiny_model(tiny_config(vocab_size=tokenizer.vocab_size + 5))
    engine = Engine(model, valid_vocab=tokenizer.vocab_size)
    bias = dict.fromkeys(closing_ids(tokenizer), 4.0)  # or random weights would seldom come to an end
    sampling = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=150, logit_bias=bias)
    tool = WEATHER
    forms = [
        {"answer": PERSON},
        {"tools": [tool]},
        {"answer": JSON_OBJECT},
        {"answer": PERSON, "tools": [tool]},
    ]
    params = []
    for i in range(40):
        free = (sampling if i % 3 else GREEDY.replace(max_tokens=30)).replace(
            seed=i, stop_ids=tokenizer.stop_ids
        )
        params.append(
            free if i % 5 == 0 else free.replace(grammar=compiler.reply(**forms[i % 4]), n=1 + i % 2)
        )
    prompts = [[*tokenizer.prefix_ids, i + 5] for i in range(40)]
    together = engine.generate(prompts, params)
    for prompt, own, answers in list(zip(prompts, params, together))[::7]:
        assert engine.generate([prompt], own) == [answers]
    reasons = []
    for i, answers in enumerate(together):
        for answer in answers if params[i].grammar else ():
            reasons.append(answer.finish_reason)
            if answer.finish_reason == "length":
                assert len(answer.ids) == params[i].max_tokens
                continue
            reply = read(answer.ids, tokenizer, {"get_weather"})
            assert not reply.problems
            assert bool(reply.content) + bool(reply.tool_calls) == 1
            for call in reply.tool_calls:
                jsonschema.validate(call.arguments, tool["parameters"])
            if reply.content:
                jsonschema.validate(json.loads(reply.content), forms[i % 4]["answer"])
    assert set(reasons) == {"stop", "length"}
    assert reasons.count("stop") > 15
    engine.check()
    assert not engine.has_work
