"""What the server asks of the engine and of the reply parser beyond what others do."""

from __future__ import annotations

import pytest

from chatglm3 import ChatGLM3
from chatglm3.engine import SamplingParams
from chatglm3.errors import InvalidParameterError
from chatglm3.prompt import CallBegin, ReplyParser, TextDelta

LONG = SamplingParams(temperature=1, seed=1, max_tokens=30, n=3)


def test_one_of_several_answers_can_be_ended(alone: ChatGLM3) -> None:
    engine = alone.engine
    whole = engine.generate([[5, 6, 7]], LONG)[0]
    request = engine.submit([5, 6, 7], LONG)
    tokens: dict[int, list[int | None]] = {0: [], 1: [], 2: []}
    reasons = {}
    while engine.has_work:
        for output in engine.step():
            tokens[output.index].append(output.token)
            reasons[output.index] = output.finish_reason
            if output.index == 1 and len(tokens[1]) == 4:
                assert engine.abort(request, 1)
                assert not engine.abort(request, 1)
        engine.check()
    assert reasons == {0: "length", 1: "abort", 2: "length"}
    assert tokens[0] == whole[0].ids
    assert tokens[1] == [*whole[1].ids[:4], None]
    assert tokens[2] == whole[2].ids
    assert engine.stats.blocks_used == 0


def test_the_first_answer_can_be_ended_before_the_others_have_begun(alone: ChatGLM3) -> None:
    engine = alone.engine
    request = engine.submit([8, 9], LONG)
    assert engine.abort(request, 0)
    indices = set()
    while engine.has_work:
        indices |= {output.index for output in engine.step() if output.token is not None}
        engine.check()
    assert indices == {1, 2}


def test_cached_tokens_are_told_once(alone: ChatGLM3) -> None:
    engine = alone.engine
    ids = [7] * 40
    for expected in (0, 32):
        engine.submit(ids, SamplingParams(temperature=0, max_tokens=3))
        told = []
        while engine.has_work:
            assert engine.running <= {engine._last_id}
            told += [output.cached_tokens for output in engine.step()]
        assert told == [expected, None, None]


def test_requests_can_be_checked_without_being_submitted(alone: ChatGLM3) -> None:
    assert alone.engine.check_request((1, 2), LONG) == [1, 2]
    with pytest.raises(InvalidParameterError, match="10000"):
        alone.engine.check_request([10_000], LONG)


def test_a_parser_that_takes_no_calls_makes_text_of_them() -> None:
    text = "get_weather\n ```python\ntool_call(city='Paris')\n```"
    parser = ReplyParser(None, interpreter=False)
    events = [event for piece in text for event in parser.feed(piece)]
    last, reply = parser.finish()
    assert not any(isinstance(event, CallBegin) for event in events + last)
    assert (reply.content, reply.tool_calls) == (text, [])


def test_space_that_is_held_back_can_be_seen() -> None:
    parser = ReplyParser(None, interpreter=False)
    assert parser.feed("\n \n") == []
    assert parser.held_space == ""  # before the text: never part of it
    assert parser.feed("one\n\n") == [TextDelta("one")]
    assert parser.held_space == "\n\n"
    assert parser.feed(" two") == [TextDelta("\n\n two")]
    assert parser.held_space == ""
