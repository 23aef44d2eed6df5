"""The loop over a scripted model: calls are run, observed, bounded and cancelled; the history tells all."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatglm3 import CallBegin, CallEnd, ChatGLM3, Done, Message, TextDelta, ToolCall, ToolImage, ToolResult
from chatglm3.chat import load_transcript, save_transcript
from chatglm3.errors import InvalidMessageError, InvalidParameterError, PromptTooLongError, ToolError
from chatglm3.prompt import INTERPRETER, attach_tools, render
from chatglm3.tools import Image, Tool, Toolbox, ToolOutput, tool
from tests.scripted import ScriptedEngine, called, scripted
from tests.tiny import write_tiny_checkpoint

STOCK = {
    "name": "get_stock",
    "description": "Stock",
    "parameters": {"type": "object", "properties": {"item": {"type": "string"}}},
}


@pytest.fixture(scope="module")
def glm(tmp_path_factory: pytest.TempPathFactory) -> ChatGLM3:
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model", max_seq_len=4096)
    return ChatGLM3.load(folder, device="cpu")


def tool_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "chatglm3-tools"}


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(glm: ChatGLM3) -> Iterator[None]:
    before = tool_threads()  # of other tests' toolboxes, which live as long as their modules
    yield
    assert glm.engine.stats.blocks_used == 0
    glm.engine.check()
    end = time.monotonic() + 2
    while tool_threads() - before:
        assert time.monotonic() < end
        time.sleep(0.01)


def get_weather(city: str) -> dict[str, Any]:
    """Get the weather of a city."""
    return {"city": city, "celsius": 3}


def prompts(glm: ChatGLM3) -> list[list[int]]:
    assert isinstance(glm.engine, ScriptedEngine)
    return glm.engine.prompts


def roles(done: Done) -> list[str]:
    return [message.role for message in done.history]


def test_a_call_is_run_and_the_model_reads_on(glm: ChatGLM3) -> None:
    model = scripted(glm, called("get_weather", "city='Oslo'"), "\n It is 3 degrees.")
    events = list(model.stream("Oslo?", tools=[get_weather]))
    done = events[-1]
    assert isinstance(done, Done)
    assert done.content == "It is 3 degrees."
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == done.content
    kinds = [
        type(event).__name__ for event in events if type(event).__name__ not in ("CallDelta", "TextDelta")
    ]
    assert kinds == ["CallBegin", "CallEnd", "ToolResult", "Done"]
    (result,) = done.results
    assert result in events
    assert (result.index, result.name, result.content) == (0, "get_weather", '{"city": "Oslo", "celsius": 3}')
    assert result.call == ToolCall("get_weather", {"city": "Oslo"})
    assert done.history == [
        Message("user", "Oslo?"),
        Message.call(ToolCall("get_weather", {"city": "Oslo"})),
        Message("observation", '{"city": "Oslo", "celsius": 3}'),
        Message("assistant", "It is 3 degrees."),
    ]
    assert (done.finish_reason, done.usage.rounds, done.tool_calls) == ("stop", 2, [])


def test_the_second_prompt_is_the_history_and_the_prefix_cache_pays_for_it(glm: ChatGLM3) -> None:
    model = scripted(glm, called("get_weather", "city='Oslo'"), "\n Cold.")
    hits = glm.engine.stats.prefix_hits
    computed = glm.engine.stats.computed_tokens
    done = model.chat("How cold is it there now?", tools=[get_weather])
    first, second = prompts(model)
    definitions = Toolbox(get_weather).definitions
    assert first == render(done.history[:1], glm.tokenizer, tools=definitions).ids
    assert second == render(done.history[:3], glm.tokenizer, tools=definitions).ids
    assert second[: len(first)] == first
    assert done.usage.prompt_tokens == len(second)
    cached = 16 * ((len(first)) // 16)
    assert glm.engine.stats.prefix_hits - hits >= cached
    assert glm.engine.stats.computed_tokens - computed <= len(first) + len(second) - cached


def test_what_is_said_after_a_call_comes_before_its_observation(glm: ChatGLM3) -> None:
    reply = called("get_weather", "city='Oslo'") + "<|assistant|>\n One moment."
    done = scripted(glm, reply, "\n Cold.").chat("Oslo?", tools=[get_weather])
    assert [(message.role, message.metadata) for message in done.history] == [
        ("user", ""),
        ("assistant", ""),
        ("assistant", "get_weather"),
        ("observation", ""),
        ("assistant", ""),
    ]
    assert done.history[1].content == "One moment."


def test_one_tool_needs_no_list(glm: ChatGLM3) -> None:
    for one in (get_weather, tool(get_weather), Toolbox(get_weather)):
        done = scripted(glm, called("get_weather", "city='Oslo'"), "\n Cold.").chat("Oslo?", tools=one)
        assert len(done.results) == 1
        if isinstance(one, Toolbox):
            one.close()


def test_several_rounds_and_a_thought_before_the_call(glm: ChatGLM3) -> None:
    model = scripted(
        glm,
        "\n First Oslo.<|assistant|>" + called("get_weather", "city='Oslo'"),
        called("get_weather", "city='Rome'"),
        "\n Oslo 3, Rome 3.",
    )
    events = list(model.stream("Both?", tools=[get_weather]))
    done = events[-1]
    assert isinstance(done, Done)
    assert roles(done) == [
        "user",
        "assistant",
        "assistant",
        "observation",
        "assistant",
        "observation",
        "assistant",
    ]
    assert [event.index for event in events if isinstance(event, (CallBegin, ToolResult))] == [0, 0, 1, 1]
    assert done.content == "Oslo 3, Rome 3."
    assert (done.usage.rounds, len(done.results)) == (3, 2)
    # Going on with the history is a prompt that begins with what the model has seen.
    again = scripted(glm, "\n ok")
    again.chat("Thanks", history=done.history, tools=[get_weather])
    assert prompts(again)[0][: len(prompts(model)[-1])] == prompts(model)[-1]


def test_several_calls_of_one_reply_run_together_and_are_observed_in_order(glm: ChatGLM3) -> None:
    together = threading.Barrier(2, timeout=5)
    released = threading.Event()

    def slow() -> str:
        together.wait()
        released.wait(5)
        return "slow"

    async def fast() -> str:
        await asyncio.to_thread(together.wait)
        released.set()
        return "fast"

    model = scripted(glm, called("slow", "") + "<|assistant|>" + called("fast", ""), "\n done")
    done = model.chat("Go", tools=[slow, fast])
    assert [message.content for message in done.history if message.role == "observation"] == ["slow", "fast"]
    assert roles(done) == ["user", "assistant", "observation", "assistant", "observation", "assistant"]
    assert [result.content for result in done.results] == ["slow", "fast"]


@pytest.mark.parametrize(
    ("reply", "observation"),
    [
        (
            called("get_wether", "city='Oslo'"),
            "Error: there is no tool 'get_wether'. The tools are: get_weather",
        ),
        (
            called("get_weather", "town='Oslo'"),
            "Error: city is missing; town is not a parameter. The parameters",
        ),
        (
            called("get_weather", "city=f()"),
            "Error: the call to get_weather cannot be read: f() is not a plain",
        ),
        ("get_weather\n It is cold", "Error: the call to get_weather cannot be read: "),
    ],
)
def test_what_is_wrong_with_a_call_goes_to_the_model(glm: ChatGLM3, reply: str, observation: str) -> None:
    model = scripted(glm, reply, "\n Sorry.")
    events = list(model.stream("Oslo?", tools=[get_weather]))
    done = events[-1]
    assert isinstance(done, Done)
    assert done.content == "Sorry."
    assert roles(done) == ["user", "assistant", "observation", "assistant"]
    assert done.history[2].content.startswith(observation)
    assert done.results[0].is_error
    # The reader is told of the call, and does not see it as an answer.
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "Sorry."
    assert (
        prompts(model)[1]
        == render(done.history[:3], glm.tokenizer, tools=Toolbox(get_weather).definitions).ids
    )


def test_a_tool_that_fails_is_no_crash(glm: ChatGLM3) -> None:
    def fails() -> None:
        raise SystemExit("gone")

    done = scripted(glm, called("fails", ""), "\n It failed.").chat("Go", tools=[fails])
    assert done.history[2].content == "Error: SystemExit: gone"
    assert done.content == "It failed."


def test_rounds_are_bounded(glm: ChatGLM3) -> None:
    model = scripted(glm, *[called("get_weather", "city='Oslo'")] * 9)
    done = model.chat("Oslo?", tools=[get_weather], max_rounds=2)
    assert (done.finish_reason, done.usage.rounds, len(done.results)) == ("rounds", 3, 2)
    assert done.tool_calls == [ToolCall("get_weather", {"city": "Oslo"})]
    assert roles(done) == ["user", *["assistant", "observation"] * 2, "assistant"]
    with pytest.raises(InvalidParameterError, match="max_rounds is 0"):
        model.chat("Oslo?", tools=[get_weather], max_rounds=0)


def test_definitions_are_manual_mode(glm: ChatGLM3) -> None:
    reply = "\n Let me see.<|assistant|>" + called("get_stock", "item='tea'")
    for tools in ([STOCK], Toolbox(STOCK), [STOCK, get_weather]):
        done = scripted(glm, reply).chat("Tea?", tools=tools)
        assert done.tool_calls == [ToolCall("get_stock", {"item": "tea"})]
        assert (done.finish_reason, done.results) == ("stop", [])
        observed = [*done.history, Message("observation", "none left")]
        answer = scripted(glm, "\n Sold out.").chat(observed, tools=tools)
        assert answer.content == "Sold out."
    # One call that the caller must answer: none of the reply's calls is run.
    both = called("get_weather", "city='Oslo'") + "<|assistant|>" + called("get_stock", "item='tea'")
    done = scripted(glm, both).chat("Both?", tools=[get_weather, STOCK])
    assert [call.name for call in done.tool_calls] == ["get_weather", "get_stock"]
    assert done.results == []


def test_definitions_alone_answer_nothing_themselves(glm: ChatGLM3) -> None:
    done = scripted(glm, called("unheard_of", "x=1")).chat("Go", tools=[STOCK])
    assert done.tool_calls == [ToolCall("unheard_of", {"x": 1})]
    done = scripted(glm, called("get_stock", "x=f()")).chat("Go", tools=[STOCK])
    assert done.reply.problems
    assert "f()" in done.content


def test_a_call_that_is_cut_off_is_not_run(glm: ChatGLM3) -> None:
    cut_off = (called("get_weather", "city='Oslo'")[:-10], "length")
    events = list(scripted(glm, cut_off).stream("Oslo?", tools=[get_weather]))
    done = events[-1]
    assert isinstance(done, Done)
    assert (done.finish_reason, done.results) == ("length", [])
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == done.content


def test_images_come_before_their_result(glm: ChatGLM3) -> None:
    picture = Image(b"\x89PNG")

    def draw() -> ToolOutput:
        return ToolOutput("drawn", (picture,))

    events = list(scripted(glm, called("draw", ""), "\n There.").stream("Draw", tools=[draw]))
    shown = [event for event in events if isinstance(event, (ToolImage, ToolResult))]
    assert shown[0] == ToolImage(0, picture)
    assert isinstance(shown[1], ToolResult)


def test_code_goes_to_the_interpreter_if_there_is_one(glm: ChatGLM3) -> None:
    code = "interpreter\n```python\nprint(1 + 1)\n```"
    run = Tool({"name": INTERPRETER}, lambda code: f"ran {code.strip()}")
    with Toolbox(interpreter=run) as toolbox:
        done = scripted(glm, code, "\n It is 2.").chat("1 + 1?", tools=toolbox)
    assert done.content == "It is 2."
    assert done.history[2] == Message("observation", "ran print(1 + 1)")
    assert done.history[1].metadata == INTERPRETER
    without = scripted(glm, code).chat("1 + 1?", tools=[get_weather])
    assert (without.code or "").strip() == "print(1 + 1)"
    assert without.results == []


def test_approval_is_asked_in_the_callers_thread(glm: ChatGLM3) -> None:
    ran: list[str] = []

    @tool(needs_approval=True)
    def delete(path: str) -> None:
        ran.append(path)

    asked: list[tuple[ToolCall, bool]] = []

    def refuse(call: ToolCall) -> bool:
        asked.append((call, threading.current_thread() is threading.main_thread()))
        return False

    done = scripted(glm, called("delete", "path='x'"), "\n I may not.").chat(
        "Go", tools=[delete], approve=refuse
    )
    assert (ran, asked) == ([], [(ToolCall("delete", {"path": "x"}), True)])
    assert "does not allow" in done.history[2].content


def test_closing_the_stream_cancels_the_tool(glm: ChatGLM3) -> None:
    happened: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            happened.append("cancelled")
            raise

    def quick() -> str:
        return "quick"

    model = scripted(glm, called("quick", "") + "<|assistant|>" + called("waits", ""))
    events = model.stream("Go", tools=[quick, waits])
    for event in events:
        if isinstance(event, ToolResult):
            break
    events.close()  # type: ignore[attr-defined]
    assert happened == ["cancelled"]


def test_closing_the_stream_stops_the_model(glm: ChatGLM3) -> None:
    events = glm.stream("hello", tools=[get_weather], max_tokens=50)
    next(events)
    assert glm.engine.stats.running == 1
    events.close()  # type: ignore[attr-defined]
    assert glm.engine.stats.running == 0


def test_results_are_cut_to_what_the_context_holds(glm: ChatGLM3) -> None:
    def flood() -> str:
        return "hello world " * 20_000

    toolbox = Toolbox(flood, max_chars=10**6)
    done = scripted(glm, called("flood", ""), "\n Much.").chat("Go", tools=toolbox)
    toolbox.close()
    assert done.content == "Much."
    assert done.history[2].content.endswith("[cut here: the context has room for no more]")
    assert done.history[2].content == done.results[0].content
    assert glm.engine.max_context * 3 // 4 < done.usage.prompt_tokens < glm.engine.max_context


def test_a_conversation_that_fills_the_context_ends_the_answer(glm: ChatGLM3) -> None:
    history = [Message("user", "hello world " * 360), Message("assistant", "ok")]
    model = scripted(glm, called("get_weather", f"city='{'hello ' * 250}'"), "\n never")
    done = model.chat("Go", history=history, tools=[get_weather])
    assert (done.finish_reason, done.content, done.tool_calls) == ("length", "", [])
    assert roles(done)[-1] == "observation"
    room = scripted(glm, called("get_weather", f"city='{'hello ' * 250}'"), "\n fine")
    done = room.chat("Go", history=history, tools=[get_weather], overflow="drop")
    assert (done.content, done.dropped) == ("fine", 2)
    with pytest.raises(PromptTooLongError):
        scripted(glm, "x").chat("Go", history=history * 5, tools=[get_weather])


def test_what_is_no_tool_is_refused_before_anything_happens(glm: ChatGLM3) -> None:
    with pytest.raises(ToolError, match="no tool and no file 'calculater'"):
        glm.stream("Go", tools="calculater")
    with pytest.raises(ToolError, match="two tools are called 'get_weather'"):
        glm.stream("Go", tools=[get_weather, get_weather])
    with pytest.raises(InvalidMessageError, match="tools of its own"):
        glm.stream([Message("system", "x", tools=[STOCK]), Message("user", "y")], tools=[get_weather])


def test_the_callers_system_message_gets_the_tools(glm: ChatGLM3) -> None:
    model = scripted(glm, "\n ok")
    history = [Message("system", "Be brief.")]
    done = model.chat("hello", history=history, tools=[get_weather])
    assert done.history[0] == Message("system", "Be brief.")
    offered = attach_tools([*history, Message("user", "hello")], Toolbox(get_weather).definitions)
    assert prompts(model)[0] == render(offered, glm.tokenizer).ids


def test_a_transcript_replays_exactly(glm: ChatGLM3, tmp_path: Path) -> None:
    model = scripted(glm, called("get_weather", "city='北京'"), "\n 三度。")
    done = model.chat([Message("system", "简短。"), Message("user", "北京？")], tools=[get_weather])
    path = tmp_path / "talk.json"
    save_transcript(path, done.history)
    assert load_transcript(path) == done.history
    assert "北京" in path.read_text(encoding="utf-8")
    assert [file.name for file in tmp_path.iterdir()] == ["talk.json"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("{", "is not JSON"), ("{}", "must hold a list"), ('[{"role": "x"}]', "talk.json: message 0")],
)
def test_files_that_hold_no_transcript(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "talk.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidMessageError, match=complaint):
        load_transcript(path)


def test_events_of_a_call_come_while_it_is_written(glm: ChatGLM3) -> None:
    model = scripted(glm, called("get_weather", "city='Oslo'"), "\n Cold.")
    events = model.stream("Oslo?", tools=[get_weather])
    assert isinstance(next(events), CallBegin)
    rest = list(events)
    assert [event for event in rest if isinstance(event, CallEnd)] == [
        CallEnd(0, call=ToolCall("get_weather", {"city": "Oslo"}))
    ]


PIECES = st.one_of(
    st.sampled_from(
        [
            "get_weather",
            "get_stock",
            "interpreter",
            "no_such_tool",
            "\n",
            "```python\n",
            "\n```",
            "tool_call(",
            "city='Oslo'",
            "city=[",
            ")",
            " ",
            "<|assistant|>",
            called("get_weather", "city='Oslo'"),
            called("get_weather", "n=1"),
            called("unheard_of", ""),
            "get_weather\n oops",
        ]
    ),
    st.text(st.characters(codec="utf-8"), max_size=8),
)
REPLIES = st.lists(
    st.tuples(st.lists(PIECES, max_size=8).map("".join), st.sampled_from(["stop", "stop", "stop", "length"])),
    min_size=4,
    max_size=4,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(replies=REPLIES, manual=st.booleans())
def test_whatever_the_model_writes_the_answer_is_consistent(
    glm: ChatGLM3, replies: list[tuple[str, str]], manual: bool
) -> None:
    model = scripted(glm, *replies, computes=False)
    with Toolbox(get_weather, *([STOCK] if manual else [])) as toolbox:
        events = list(model.stream("Go", tools=toolbox, max_rounds=3))
        definitions = toolbox.definitions
    done = events[-1]
    assert isinstance(done, Done)
    begun = [event.index for event in events if isinstance(event, CallBegin)]
    assert begun == list(range(len(begun)))
    assert [event.index for event in events if isinstance(event, CallEnd)] == begun
    assert (
        sorted(event.index for event in events if isinstance(event, ToolResult)) == begun[: len(done.results)]
    )
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert text.endswith(done.content) or done.reply.problems
    observed = [message.content for message in done.history if message.role == "observation"]
    assert observed == [result.content for result in done.results]
    assert [i for i, message in enumerate(done.history) if message.role == "observation"] == [
        i + 1
        for i, message in enumerate(done.history[: len(done.history) - len(done.reply.messages)])
        if message.metadata
    ]
    # Every prompt is the history up to the reply that follows it.
    seen = {tuple(prompt) for prompt in prompts(model)}
    rendered = {
        tuple(render(done.history[:end], glm.tokenizer, tools=definitions).ids)
        for end in range(1, len(done.history) + 1)
    }
    assert seen <= rendered
    assert len(prompts(model)) == done.usage.rounds <= 4
