"""The Python API over a whole (tiny, random) checkpoint: events, histories, limits and errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import chatglm3
from chatglm3 import ChatGLM3, Done, Message, SamplingParams, TextDelta
from chatglm3.errors import InvalidMessageError, InvalidParameterError, PromptTooLongError
from chatglm3.prompt import render
from tests.tiny import write_tiny_checkpoint

WEATHER = {
    "name": "get_weather",
    "description": "Weather",
    "parameters": {"type": "object", "properties": {}},
}


@pytest.fixture(scope="module")
def glm(tmp_path_factory: pytest.TempPathFactory) -> ChatGLM3:
    return ChatGLM3.load(write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model"), device="cpu")


@pytest.fixture(autouse=True)
def _no_block_is_left_behind(glm: ChatGLM3) -> Iterator[None]:
    yield
    assert glm.engine.stats.blocks_used == 0
    glm.engine.check()


def test_stream_is_chat_in_pieces(glm: ChatGLM3) -> None:
    events = list(glm.stream("hello", temperature=0, max_tokens=30))
    done = events[-1]
    assert isinstance(done, Done)
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == done.content
    assert done.content == glm.chat("hello", temperature=0, max_tokens=30).content


def test_done_counts_what_the_answer_took(glm: ChatGLM3) -> None:
    done = glm.chat("hello", temperature=0, max_tokens=7)
    assert done.finish_reason == "length"
    assert done.usage.completion_tokens == 7
    assert done.usage.prompt_tokens == len(render([Message("user", "hello")], glm.tokenizer).ids)
    assert 0 < done.usage.first_token_seconds <= done.usage.seconds


def test_a_reply_ends_at_the_token_of_the_next_role(glm: ChatGLM3) -> None:
    bias = {glm.tokenizer.user_id: 100.0}
    done = glm.chat("hello", temperature=0, logit_bias=bias)
    assert (done.finish_reason, done.content, done.usage.completion_tokens) == ("stop", "", 1)


def test_history_holds_the_conversation_and_the_callers_is_not_changed(glm: ChatGLM3) -> None:
    history = [Message("system", "Be brief."), Message("user", "hello"), Message("assistant", "Hi!")]
    before = list(history)
    done = glm.chat("again", history=history, max_tokens=3)
    assert history == before
    assert done.history[:4] == [*history, Message("user", "again")]
    assert [message.role for message in done.history[4:]] == ["assistant"]


def test_conversations_in_every_notation_are_the_same_prompt(glm: ChatGLM3) -> None:
    notations = ["hello", Message("user", "hello"), {"role": "user", "content": "hello"}]
    answers = {glm.chat(one, temperature=0, max_tokens=8).content for one in notations}
    answers |= {glm.chat([one], temperature=0, max_tokens=8).content for one in notations[1:]}
    assert len(answers) == 1


def test_tools_change_the_prompt_and_not_the_history(glm: ChatGLM3) -> None:
    plain = glm.chat("hello", max_tokens=1)
    offered = glm.chat("hello", tools=[WEATHER], max_tokens=1)
    assert offered.usage.prompt_tokens > plain.usage.prompt_tokens
    assert [message.role for message in offered.history] == ["user", "assistant"]


def test_closing_a_stream_stops_the_model(glm: ChatGLM3) -> None:
    events = glm.stream("hello", seed=1)
    next(events)
    assert glm.engine.stats.running == 1
    events.close()  # type: ignore[attr-defined]
    assert glm.engine.stats.running == 0


def test_a_conversation_beyond_the_context_is_refused_or_cut_visibly(glm: ChatGLM3) -> None:
    turn = [Message("user", "hello world " * 10), Message("assistant", "how are you")]
    history = [Message("system", "Be brief."), *turn * 20]
    with pytest.raises(PromptTooLongError, match=r"\d+ tokens, and a context of 512"):
        glm.chat("today?", history=history)
    done = glm.chat("today?", history=history, overflow="drop", max_tokens=5)
    assert done.dropped > 0
    assert done.dropped % 2 == 0  # whole turns
    assert done.history[: len(history)] == history  # nothing of the caller's is lost
    with pytest.raises(PromptTooLongError, match="even without its older turns"):
        glm.chat("hello world " * 400, overflow="drop")


def test_greedy_answers_do_not_depend_on_what_was_asked_before(glm: ChatGLM3) -> None:
    alone = glm.chat("how are you today?", temperature=0, max_tokens=20).content
    glm.chat("how are you", temperature=0, max_tokens=5)
    assert glm.chat("how are you today?", temperature=0, max_tokens=20).content == alone


def test_a_seed_fixes_a_sampled_answer(glm: ChatGLM3) -> None:
    def answer(seed: int) -> str:
        return glm.chat(
            "hello", sampling=SamplingParams(temperature=1.5, top_p=1.0, seed=seed, max_tokens=20)
        ).content

    assert answer(1) == answer(1) != answer(2)


def test_generate_continues_a_text(glm: ChatGLM3) -> None:
    text = glm.generate("hello", temperature=0, max_tokens=12)
    assert "".join(glm.stream_text("hello", temperature=0, max_tokens=12)) == text
    (first, second), (only, _) = glm.generate_batch(["hello", "你好"], temperature=0, max_tokens=12, n=2)
    assert first.text == second.text == text
    assert only.text == glm.generate("你好", temperature=0, max_tokens=12)


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "empty"),
        ([Message("system", "a"), Message("system", "b"), Message("user", "c")], "both system messages"),
        ([Message("user", "a"), Message("assistant", "b")], "ends with a message from assistant"),
        ([{"role": "wizard", "content": "a"}], "unknown role 'wizard'"),
    ],
)
def test_conversations_that_cannot_be_answered(glm: ChatGLM3, messages: list, complaint: str) -> None:
    with pytest.raises(InvalidMessageError, match=complaint):
        glm.chat(messages)


def test_parameters_that_cannot_be_meant(glm: ChatGLM3) -> None:
    with pytest.raises(InvalidParameterError, match="temperature is -1"):
        glm.chat("hello", temperature=-1)
    with pytest.raises(InvalidParameterError, match="no sampling parameter 'temprature'"):
        glm.chat("hello", temprature=1)
    with pytest.raises(InvalidParameterError, match="overflow is 'cut'"):
        glm.chat("hello", overflow="cut")  # type: ignore[arg-type]
    with pytest.raises(InvalidParameterError, match="n is 2"):
        glm.chat("hello", n=2)


def test_quantized_while_loading(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model")
    done = ChatGLM3.load(folder, device="cpu", quantize="int8").chat("hello", temperature=0, max_tokens=5)
    assert done.usage.completion_tokens == 5


def test_every_public_name_can_be_had() -> None:
    for name in chatglm3.__all__:
        assert getattr(chatglm3, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = chatglm3.Nothing
