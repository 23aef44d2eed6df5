"""/v1/chat/completions over a real socket: every field does what it says, streamed or not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chatglm3 import ChatGLM3
from chatglm3.engine import SamplingParams
from chatglm3.prompt import Message, ReplyDecoder, render
from tests.server.conftest import LiveServer

HELLO = [{"role": "user", "content": "hello"}]
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}
GREEDY: dict[str, Any] = {"messages": HELLO, "temperature": 0, "max_tokens": 20}


def ask(server: LiveServer, **fields: Any) -> dict[str, Any]:
    response = server.http.post("/v1/chat/completions", json=GREEDY | fields)
    assert response.status_code == 200, response.text
    return response.json()


def text(answer: dict[str, Any], index: int = 0) -> str:
    choice = answer["choices"][index]
    assert choice["index"] == index
    return choice["message"]["content"]


def chunks(server: LiveServer, **fields: Any) -> list[dict[str, Any]]:
    """The chunks of a stream, which has to end with [DONE]."""
    response = server.http.post("/v1/chat/completions", json=GREEDY | fields | {"stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    events = response.text.removesuffix("\n\n").split("\n\n")
    assert all(event.startswith("data: ") for event in events)
    assert events[-1] == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events[:-1]]


def joined(stream: list[dict[str, Any]], index: int = 0) -> str:
    deltas = [c["delta"] for chunk in stream for c in chunk["choices"] if c["index"] == index]
    return "".join(delta.get("content") or "" for delta in deltas)


def reason(stream: list[dict[str, Any]], index: int = 0) -> str:
    choices = [c for chunk in stream for c in chunk["choices"] if c["index"] == index]
    assert [c["finish_reason"] for c in choices[:-1]] == [None] * (len(choices) - 1)
    return choices[-1]["finish_reason"]


def test_the_answer_is_that_of_the_engine(server: LiveServer, alone: ChatGLM3) -> None:
    tokenizer = alone.tokenizer
    ids = render([Message("user", "hello")], tokenizer).ids
    params = SamplingParams(temperature=0, max_tokens=20, stop_ids=tokenizer.stop_ids)
    answer = ask(server)
    completion = alone.engine.generate([ids], params)[0][0]
    decoder = ReplyDecoder(tokenizer, None, interpreter=False)
    for id in completion.ids:
        decoder.add(id)
    assert text(answer) == decoder.finish()[1].content
    assert answer["choices"][0]["finish_reason"] == completion.finish_reason
    assert answer["usage"]["prompt_tokens"] == len(ids)
    assert answer["usage"]["completion_tokens"] == len(completion.ids)
    assert answer["usage"]["total_tokens"] == len(ids) + len(completion.ids)
    assert (answer["object"], answer["model"]) == ("chat.completion", "tiny")


def test_a_stream_is_the_answer_in_pieces(server: LiveServer) -> None:
    stream = chunks(server)
    assert joined(stream) == text(ask(server))
    assert reason(stream) == "length"
    assert stream[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert len({chunk["id"] for chunk in stream}) == 1
    assert all(chunk["object"] == "chat.completion.chunk" and "usage" not in chunk for chunk in stream)


def test_usage_comes_last_in_a_stream_that_asks_for_it(server: LiveServer) -> None:
    stream = chunks(server, stream_options={"include_usage": True})
    assert all(chunk["usage"] is None for chunk in stream[:-1])
    assert stream[-1]["choices"] == []
    assert stream[-1]["usage"]["completion_tokens"] == 20


def test_a_second_question_with_the_same_beginning_is_cached(server: LiveServer) -> None:
    messages = [{"role": "user", "content": "how are you today? " * 10}]
    ask(server, messages=messages)
    usage = ask(server, messages=messages)["usage"]
    assert usage["prompt_tokens"] - 17 <= usage["prompt_tokens_details"]["cached_tokens"] > 0


def test_several_answers(server: LiveServer) -> None:
    answer = ask(server, n=3)
    assert text(answer, 0) == text(answer, 1) == text(answer, 2) == text(ask(server))
    stream = chunks(server, n=3, temperature=1, seed=5)
    answer = ask(server, n=3, temperature=1, seed=5)
    assert [joined(stream, i) for i in range(3)] == [text(answer, i) for i in range(3)]
    assert len({text(answer, i) for i in range(3)}) == 3


def test_the_seed_decides(server: LiveServer) -> None:
    def answer(seed: int) -> str:
        return text(ask(server, temperature=1, top_p=1, seed=seed))

    assert answer(1) == answer(1) != answer(2)


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_the_longest_answer(server: LiveServer, field: str) -> None:
    answer = ask(server, **{"max_tokens": None, field: 3})
    assert answer["usage"]["completion_tokens"] == 3


def test_sampling_parameters_reach_the_engine(server: LiveServer) -> None:
    plain = text(ask(server))
    assert text(ask(server, temperature=1.5, top_k=1)) == plain
    assert text(ask(server, temperature=1.5, top_p=1e-6)) == plain
    assert text(ask(server, temperature=1.5, min_p=1)) == plain
    assert text(ask(server, repetition_penalty=5)) != plain
    assert text(ask(server, frequency_penalty=2, max_tokens=100)) != text(ask(server, max_tokens=100))
    assert text(ask(server, presence_penalty=2, max_tokens=100)) != text(ask(server, max_tokens=100))


def test_logit_bias_forces_and_bans(server: LiveServer) -> None:
    token = server.glm.tokenizer.encode("hello")[-1]
    assert text(ask(server, logit_bias={str(token): 100}, max_tokens=4)) == "o" * 4
    banned = {str(server.glm.tokenizer.user_id): 100}
    assert ask(server, logit_bias=banned)["choices"][0]["finish_reason"] == "stop"


def test_a_stop_string_ends_the_answer_wherever_tokens_end(server: LiveServer) -> None:
    whole = text(ask(server, max_tokens=60))
    for start in range(1, len(whole) - 3, 7):
        stop = whole[start : start + 3]
        expected = whole[: whole.index(stop)]
        answer = ask(server, max_tokens=60, stop=[stop, "never"])
        assert (text(answer), answer["choices"][0]["finish_reason"]) == (expected, "stop")
        stream = chunks(server, max_tokens=60, stop=stop)
        assert (joined(stream), reason(stream)) == (expected, "stop")
        assert answer["usage"]["completion_tokens"] < 60


def test_stopped_answers_stop_the_engine_and_not_each_other(server: LiveServer) -> None:
    fields: dict[str, Any] = {"n": 4, "temperature": 1, "seed": 3, "max_tokens": 60}
    whole = [text(ask(server, **fields), i) for i in range(4)]
    stop = whole[1][3:6]
    cut = [w[: w.index(stop)] if stop in w else w for w in whole]
    answer = ask(server, **fields, stop=stop)
    assert [text(answer, i) for i in range(4)] == cut
    assert [joined(chunks(server, **fields, stop=stop), i) for i in range(4)] == cut


def test_logprobs_spell_the_answer(server: LiveServer) -> None:
    answer = ask(server, logprobs=True, top_logprobs=3, max_tokens=40)
    scored = answer["choices"][0]["logprobs"]["content"]
    spelled = bytes(byte for entry in scored for byte in entry["bytes"]).decode(errors="replace")
    assert spelled.strip() == text(answer)
    for entry in scored:
        tops = [top["logprob"] for top in entry["top_logprobs"]]
        assert len(tops) == 3
        assert tops == sorted(tops, reverse=True)
        assert entry["logprob"] == pytest.approx(tops[0])  # greedy
        assert entry["logprob"] <= 0
    stream = chunks(server, logprobs=True, top_logprobs=3, max_tokens=40)
    streamed = [e for c in stream for e in (c["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert [e["token"] for e in streamed] == [e["token"] for e in scored]


def test_logprobs_do_not_tell_what_a_stop_string_holds_back(server: LiveServer) -> None:
    whole = text(ask(server, max_tokens=60))
    stop = whole[10:14]
    stream = chunks(server, max_tokens=60, stop=stop, logprobs=True)
    streamed = [e for c in stream for e in (c["choices"][0]["logprobs"] or {"content": []})["content"]]
    spelled = bytes(byte for entry in streamed for byte in entry["bytes"]).decode(errors="replace")
    last = bytes(streamed[-1]["bytes"]).decode(errors="replace")
    assert spelled.startswith(whole[:10])
    assert len(spelled) <= 10 + len(last)  # the last one's text begins before the stop string


def test_the_forms_of_messages(server: LiveServer) -> None:
    parts = [{"type": "text", "text": "hello"}]
    assert text(ask(server, messages=[{"role": "user", "content": parts}])) == text(ask(server))
    system = {"role": "system", "content": "Be brief."}
    developer = {"role": "developer", "content": "Be brief."}
    answers = [ask(server, messages=[first, *HELLO]) for first in (system, developer)]
    assert text(answers[0]) == text(answers[1])
    history = [*HELLO, {"role": "assistant", "content": "Hi", "refusal": None, "audio": None}, *HELLO]
    assert ask(server, messages=history)["usage"]["prompt_tokens"] > 15


def test_null_is_the_same_as_nothing(server: LiveServer) -> None:
    names = """top_p n stop seed tools tool_choice logit_bias stream stream_options user response_format
    logprobs top_logprobs functions function_call metadata store top_k min_p parallel_tool_calls modalities
    audio prediction web_search_options reasoning_effort verbosity moderation prompt_cache_options
    service_tier"""
    assert text(ask(server, **dict.fromkeys(names.split()))) == text(ask(server))


def test_fields_that_say_the_default_are_taken(server: LiveServer) -> None:
    silent = {"reasoning_effort": "none", "verbosity": "medium", "prompt_cache_options": {"mode": "implicit"}}
    assert text(ask(server, **silent, prompt_cache_retention="in_memory")) == text(ask(server))
    fields = {"modalities": ["text"], "service_tier": "auto", "store": False, "metadata": {"a": "b"}}
    more = {"response_format": {"type": "text"}, "user": "me", "prompt_cache_key": "k", "tool_choice": "none"}
    answer = ask(server, **fields, **more, model="chatglm3-6b")
    assert text(answer) == text(ask(server))
    assert answer["service_tier"] == "default"


@pytest.mark.parametrize(
    ("fields", "param", "complaint"),
    [
        ({"messages": None}, "messages", "valid list"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "wizard", "content": "a"}]}, "messages.0", "'wizard'"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "missing"),
        ({"messages": [{"role": "user", "content": "a", "mood": 1}]}, "messages.0.mood", "no field"),
        (
            {"messages": [{"role": "user", "content": [IMAGE]}]},
            "messages.0.content.0.type",
            "'text'",
        ),
        (
            {"messages": [*HELLO, {"role": "assistant", "content": "a"}]},
            "messages",
            "ends with a message",
        ),
        ({"messages": [*HELLO, {"role": "system", "content": "a"}, *HELLO]}, "messages", "first"),
        ({"messages": [{"role": "user", "content": "\ud83d"}]}, "messages", "lone surrogate"),
        ({"temperature": -0.1}, "temperature", "greater than or equal to 0"),
        ({"temperature": "0.5"}, "temperature", "valid number"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "differ"),
        ({"max_tokens": 600}, "messages", "512 tokens; the prompt has 10 and 600 are asked for"),
        ({"n": 0}, "n", "greater"),
        ({"n": 1000}, "n", "128"),
        ({"stop": ["x"] * 100_000}, "stop", "at most 16"),
        ({"stop": [""]}, "stop.0", "at least 1"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "'x' is not a token id"),
        ({"logit_bias": {"99999": 1}}, "logit_bias", "99999"),
        ({"logit_bias": {"5": 101}}, "logit_bias", "-100 to 100"),
        ({"top_logprobs": 3}, "top_logprobs", "logprobs=true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream=true"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "needs it"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {}}},
            "response_format.json_schema.name",
            "missing",
        ),
        ({"tool_choice": "required"}, "tool_choice", "no tools"),
        ({"tool_choice": "auto"}, "tool_choice", "no tools"),
        ({"store": True}, "store", "False"),
        ({"audio": {}}, "audio", "not supported"),
        ({"prediction": {"type": "content", "content": "a"}}, "prediction", "not supported"),
        ({"web_search_options": {}}, "web_search_options", "not supported"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "'none'"),
        ({"verbosity": "low"}, "verbosity", "'medium'"),
        ({"service_tier": "priority"}, "service_tier", "'auto' or 'default'"),
        ({"modalities": ["text", "audio"]}, "modalities.1", "'text'"),
        ({"prompt_cache_options": {"ttl": "30m"}}, "prompt_cache_options.ttl", "not supported"),
        ({"metadata": {"a": "b" * 513}}, "metadata.a", "512"),
        ({"mood": 1}, "mood", "no field 'mood'"),
        ({"function_call": "auto"}, "function_call", "no functions"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice", "no tools"),
        ({"seed": 2**64}, "seed", "less than"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    server: LiveServer, fields: dict[str, Any], param: str, complaint: str
) -> None:
    sent = json.dumps(GREEDY | fields)
    response = server.http.post(
        "/v1/chat/completions", content=sent, headers={"content-type": "application/json"}
    )
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert complaint in error["message"]
    assert error["type"] == "invalid_request_error"


def test_half_characters_can_be_complained_about(server: LiveServer) -> None:
    for body in (
        b'{"messages": [], "\\ud83d": 1}',
        b'{"model": "\\ud83d", "messages": [{"role": "user", "content": "a"}]}',
    ):
        response = server.http.post(
            "/v1/chat/completions", content=body, headers={"Content-Type": "application/json"}
        )
        assert 400 <= response.status_code < 500
        assert response.json()["error"]["message"]


def test_a_prompt_that_is_too_long_is_refused_with_both_lengths(server: LiveServer) -> None:
    messages = [{"role": "user", "content": "1 " * 600}]
    error = server.http.post("/v1/chat/completions", json={"messages": messages}).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "512" in error["message"]
    length = server.http.post("/tokenize", json={"messages": messages}).json()["count"]
    assert str(length) in error["message"]


def test_another_model_is_not_found(server: LiveServer) -> None:
    response = server.http.post("/v1/chat/completions", json=GREEDY | {"model": "gpt-5"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
