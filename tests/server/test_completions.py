"""/v1/completions: continuations, scores of prompts, several prompts at once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chatglm3 import ChatGLM3
from chatglm3.engine import SamplingParams
from tests.server.conftest import LiveServer

GREEDY: dict[str, Any] = {"prompt": "hello", "temperature": 0, "max_tokens": 12}


def ask(server: LiveServer, **fields: Any) -> dict[str, Any]:
    response = server.http.post("/v1/completions", json=GREEDY | fields)
    assert response.status_code == 200, response.text
    return response.json()


def chunks(server: LiveServer, **fields: Any) -> list[dict[str, Any]]:
    response = server.http.post("/v1/completions", json=GREEDY | fields | {"stream": True})
    events = response.text.removesuffix("\n\n").split("\n\n")
    assert events[-1] == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events[:-1]]


def texts(answer: dict[str, Any]) -> list[str]:
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(answer["choices"])))
    return [choice["text"] for choice in answer["choices"]]


def streamed(stream: list[dict[str, Any]], index: int) -> str:
    return "".join(c["text"] for chunk in stream for c in chunk["choices"] if c["index"] == index)


def test_a_text_is_continued_as_it_stands(server: LiveServer, alone: ChatGLM3) -> None:
    glm = alone
    answer = ask(server)
    ids = [*glm.tokenizer.prefix_ids, *glm.tokenizer.encode("hello")]
    params = SamplingParams(temperature=0, max_tokens=12, stop_ids={glm.tokenizer.eos_id})
    completion = glm.engine.generate([ids], params)[0][0]
    assert texts(answer)[0].strip() == glm.tokenizer.decode(completion.content_ids).strip()
    assert answer["usage"]["prompt_tokens"] == len(ids)
    assert answer["object"] == "text_completion"
    assert texts(ask(server, prompt=ids)) == texts(answer)
    assert len(texts(ask(server, max_tokens=None))[0]) > len(texts(answer)[0])  # 16


def test_several_prompts_with_several_answers_each(server: LiveServer) -> None:
    fields = {"n": 2, "temperature": 1, "seed": 1}
    alone = [texts(ask(server, prompt=prompt, **fields)) for prompt in ("hello", "你好")]
    together = ask(server, prompt=["hello", "你好"], **fields)
    assert texts(together) == [*alone[0], *alone[1]]
    assert together["usage"]["completion_tokens"] <= 4 * 12
    stream = chunks(server, prompt=["hello", "你好"], **fields)
    assert [streamed(stream, i) for i in range(4)] == texts(together)


def test_streams_echo_and_stop(server: LiveServer) -> None:
    plain = texts(ask(server))[0]
    stop = plain[4:6]
    expected = "hello" + plain[: plain.index(stop)]
    assert texts(ask(server, echo=True, stop=stop)) == [expected]
    stream = chunks(server, echo=True, stop=stop, stream_options={"include_usage": True})
    assert streamed(stream, 0) == expected
    assert stream[-2]["choices"][0]["finish_reason"] == "stop"
    assert stream[-1]["usage"]["total_tokens"] > 0


def test_scoring_a_prompt_as_evaluation_harnesses_do(server: LiveServer, alone: ChatGLM3) -> None:
    """Log-probabilities of a continuation, from echo, logprobs=1 and max_tokens=1."""
    glm = alone
    ids = [*glm.tokenizer.prefix_ids, *glm.tokenizer.encode("hello world, how are you")]
    (choice,) = ask(server, prompt=[ids], echo=True, logprobs=1, max_tokens=1)["choices"]
    scores = choice["logprobs"]
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1)
    expected = glm.engine.generate([ids], params)[0][0].prompt_logprobs
    assert expected is not None
    assert {len(values) for values in scores.values()} == {len(ids) + 1}
    assert scores["token_logprobs"][0] is scores["top_logprobs"][0] is None
    assert scores["token_logprobs"][1:-1] == pytest.approx([score.logprob for score in expected[1:] if score])
    for score, top in zip(expected[1:], scores["top_logprobs"][1:-1]):
        assert score is not None
        assert max(top.values()) == pytest.approx(score.top[0][1])


def test_a_texts_own_tokens_are_scored_without_what_is_put_in_front(server: LiveServer) -> None:
    (choice,) = ask(server, echo=True, logprobs=2, max_tokens=4)["choices"]
    scores = choice["logprobs"]
    count = len(server.glm.tokenizer.encode("hello"))
    assert len(scores["tokens"]) == count + 4
    assert "".join(scores["tokens"][:count]) == " hello"
    assert all(score <= 0 for score in scores["token_logprobs"])
    assert scores["text_offset"] == sorted(scores["text_offset"])
    stream = chunks(server, echo=True, logprobs=2, max_tokens=4)
    pieces = [c["choices"][0]["logprobs"] for c in stream if c["choices"][0]["logprobs"]]
    assert [token for piece in pieces for token in piece["tokens"]] == scores["tokens"]


def test_nothing_but_scores(server: LiveServer) -> None:
    (choice,) = ask(server, echo=True, logprobs=0, max_tokens=0)["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("hello", "length")
    assert len(choice["logprobs"]["tokens"]) == len(server.glm.tokenizer.encode("hello"))


def test_scores_come_with_each_of_several_answers(server: LiveServer) -> None:
    first, second = ask(server, n=2, echo=True, logprobs=1, max_tokens=3)["choices"]
    assert first["logprobs"]["tokens"] == second["logprobs"]["tokens"]
    assert first["logprobs"]["token_logprobs"] == pytest.approx(
        second["logprobs"]["token_logprobs"], abs=1e-5
    )


@pytest.mark.parametrize(
    ("fields", "param", "complaint"),
    [
        ({"prompt": None}, "prompt", "valid"),
        ({"prompt": []}, "prompt", "at least 1"),
        ({"prompt": [[]]}, "prompt.0", "at least 1"),
        ({"prompt": [1, "a"]}, "prompt.0", "valid"),
        ({"prompt": [10**6]}, "prompt", "1000000"),
        ({"suffix": "x"}, "suffix", "not supported"),
        ({"best_of": 3}, "best_of", "equal to n"),
        ({"logprobs": 21}, "logprobs", "20"),
        ({"max_tokens": -1}, "max_tokens", "greater"),
        ({"max_tokens": 511}, "prompt", "512 tokens; the prompt has 6 and 511 are asked for"),
        ({"messages": []}, "messages", "no field"),
    ],
)
def test_what_cannot_be_honoured(
    server: LiveServer, fields: dict[str, Any], param: str, complaint: str
) -> None:
    response = server.http.post("/v1/completions", json=GREEDY | fields)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param, response.text
    assert complaint in response.json()["error"]["message"]
