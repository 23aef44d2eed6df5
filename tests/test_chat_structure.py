"""glm.chat with a schema or strict tools, on random weights."""

from __future__ import annotations

import json

import jsonschema
import pytest

from chatglm3 import ChatGLM3, SamplingParams
from chatglm3.errors import GrammarError
from tests.grammar.walk import closing_ids
from tests.tiny import write_tiny_checkpoint

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "maximum": 150}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def glm(tmp_path_factory: pytest.TempPathFactory) -> ChatGLM3:
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model", max_seq_len=4096)
    return ChatGLM3.load(folder, device="cpu")


def drawn_to_an_end(glm: ChatGLM3, seed: int) -> SamplingParams:
    bias = dict.fromkeys(closing_ids(glm.tokenizer), 5.0)
    return SamplingParams(temperature=1.0, top_p=1.0, max_tokens=150, seed=seed, logit_bias=bias)


def test_an_answer_fits_its_schema(glm: ChatGLM3) -> None:
    answers = [glm.chat("hello", schema=PERSON, sampling=drawn_to_an_end(glm, seed)) for seed in range(8)]
    ended = [done for done in answers if done.finish_reason == "stop"]
    assert len(ended) > 4
    for done in ended:
        jsonschema.validate(json.loads(done.content), PERSON)


def test_a_tool_is_called_by_its_parameters_or_not_at_all(glm: ChatGLM3) -> None:
    heard = []

    def save(age: int, flags: list[bool]) -> str:
        """Save it."""
        heard.append((age, flags))
        return "ok"

    for seed in range(30):
        sampling = drawn_to_an_end(glm, seed)
        done = glm.chat(
            "hello", tools=[save], strict_tools=True, schema=PERSON, sampling=sampling, max_rounds=1
        )
        if done.finish_reason != "length":
            assert not any(result.is_error for result in done.results)
            assert not done.reply.problems
    assert heard
    assert all(type(age) is int and all(type(flag) is bool for flag in flags) for age, flags in heard)


def test_tools_of_the_system_message_count_as_well(glm: ChatGLM3) -> None:
    tool = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"not": {}}}}}
    messages = [{"role": "system", "content": "", "tools": [tool]}, {"role": "user", "content": "hello"}]
    with pytest.raises(GrammarError, match="the tool 'f'"):
        glm.chat(messages, strict_tools=True)
    with pytest.raises(GrammarError, match="schema of the answer"):
        glm.chat("hello", schema={"not": {}})
