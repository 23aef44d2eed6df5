"""A conversation over the API is what it would be in the same program, and can be stopped at any time."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from chatglm3 import SamplingParams
from chatglm3.chat import Done
from chatglm3.errors import InvalidMessageError, ServerError
from chatglm3.prompt import INTERPRETER, CallEnd, Message, TextDelta, ToolCall, render
from chatglm3.tools import ToolResult, tool
from chatglm3.tools.interpreter import best_isolation
from chatglm3.web import Api, ApprovalWanted, BusyError, Conversation, Host, Session, Settings
from chatglm3.web.conversation import Step
from chatglm3.web.live import Begun
from chatglm3.web.replies import RemoteReplies, openai_messages
from chatglm3.web.session import MAX_ROUNDS, Progress, open_tools
from tests.server.conftest import LiveServer
from tests.server.scripted import Script

Make = Callable[..., Session]
GREEDY = Settings(temperature=0.0, tools=("get_weather", "delete_notes"))
CALL = "get_weather\n ```python\ntool_call(city='Oslo')\n```<|observation|>"
OSLO = ToolCall("get_weather", {"city": "Oslo"})
RESULT = '{"city": "Oslo", "celsius": 21}'
SLOWLY = "\n " + "one two three four five " * 40

isolated = pytest.mark.skipif(best_isolation() is None, reason="this machine cannot isolate an interpreter")


def shown(session: Session) -> list[tuple[str, str]]:
    return [(step.kind, step.text) for step in session.steps]


def test_an_answer_comes_in_pieces_and_is_kept(session: Make, script: Script) -> None:
    script.say("\n Hello there, Ada.", "\n Ada.")
    talk = session()
    texts = [event.text for event in talk.ask("I am Ada", GREEDY) if isinstance(event, TextDelta)]
    assert len(texts) > 1
    assert "".join(texts) == "Hello there, Ada."
    list(talk.ask("Who am I?", GREEDY))
    assert shown(talk) == [
        ("user", "I am Ada"),
        ("text", "Hello there, Ada."),
        ("user", "Who am I?"),
        ("text", "Ada."),
    ]
    assert talk.conversation.title == "I am Ada"
    assert talk.problem is None


def test_a_tool_is_called_and_its_result_is_read(session: Make, script: Script) -> None:
    script.say(f"\n Let me see.<|assistant|>{CALL}", "\n 21 degrees.")
    talk = session("tool")
    events = list(talk.ask("How warm is Oslo?", GREEDY))
    assert [event.call for event in events if isinstance(event, CallEnd)] == [OSLO]
    done = events[-1]
    assert isinstance(done, Done)
    assert [result.content for result in done.results] == [RESULT]
    assert talk.conversation.messages == [
        Message("user", "How warm is Oslo?"),
        Message("assistant", "Let me see."),
        Message.call(OSLO),
        Message("observation", RESULT),
        Message("assistant", "21 degrees."),
    ]
    call = talk.steps[2]
    assert (call.kind, call.name, call.status, call.result) == ("call", "get_weather", "done", RESULT)


def test_the_server_reads_just_the_ids_that_the_loop_in_process_would(
    host: Host, server: LiveServer, script: Script
) -> None:
    """One renderer: calls, observations and programs come back over OpenAI's form as they were written."""
    program = Message("assistant", "```python\nprint('a\\n```')\n```", metadata=INTERPRETER)
    messages = [
        Message("system", "Be brief."),
        Message("user", "Weather, and then 1 + 1?"),
        Message("assistant", "Let me see."),
        Message.call(OSLO),
        Message("observation", RESULT),
        program,
        Message("observation", "2"),
        Message("assistant", "21 and 2."),
        Message("user", "Thanks"),
    ]
    definitions = [*host.tools.definitions, {"name": INTERPRETER, "description": "not shown"}]
    replies = RemoteReplies(host.api, definitions, {"temperature": 0, "max_tokens": 1})
    stream, dropped = replies.prepare(messages)
    (end,) = [e for e in replies.reply((stream, dropped)) if hasattr(e, "prompt_tokens")]
    ids = render(messages, server.glm.tokenizer, tools=host.tools.definitions).ids
    assert (end.prompt_tokens, dropped) == (len(ids), 0)
    body = {"messages": openai_messages(messages)}
    tools = [{"type": "function", "function": tool} for tool in definitions]
    response = server.http.post("/tokenize", json=body | {"tools": tools})
    assert response.json()["tokens"] == ids


def test_a_model_that_calls_for_ever_is_ended(session: Make, script: Script) -> None:
    script.say(*[CALL] * (MAX_ROUNDS + 1))
    talk = session("tool")
    done = list(talk.ask("Weather", GREEDY))[-1]
    assert isinstance(done, Done)
    assert done.finish_reason == "rounds"
    assert len(done.results) == MAX_ROUNDS


def test_what_can_change_something_waits_for_the_person(session: Make, script: Script) -> None:
    call = "delete_notes\n ```python\ntool_call(name='old')\n```<|observation|>"
    script.say(call, "\n No.", call, "\n Yes.", call, "\n Again.")
    talk = session("tool")
    decisions: Iterator[tuple[bool, bool]] = iter([(False, False), (True, True)])
    for question in ("Delete", "Delete!", "Once more"):
        for event in talk.ask(question, GREEDY):
            if isinstance(event, ApprovalWanted):
                assert talk.approval == ToolCall("delete_notes", {"name": "old"})
                allowed, always = next(decisions)
                talk.approve(allowed, always=always)
    results = [step.result for step in talk.steps if step.kind == "call"]
    assert results[0].startswith("Error: the user does not allow")
    assert results[1:] == ["old is gone"] * 2
    assert next(decisions, None) is None


def test_a_second_click_decides_nothing_about_the_next_call(session: Make, script: Script) -> None:
    call = "delete_notes\n ```python\ntool_call(name='old')\n```<|observation|>"
    script.say(call, call, "\n Done.")
    talk = session("tool")
    decisions = iter([True, False])
    for event in talk.ask("Delete", GREEDY):
        if isinstance(event, ApprovalWanted):
            talk.approve(next(decisions))
            talk.approve(True)
    results = [step.result for step in talk.steps if step.kind == "call"]
    assert results[0] == "old is gone"
    assert results[1].startswith("Error: the user does not allow")


def test_definitions_of_ones_own_are_answered_by_hand(session: Make, script: Script) -> None:
    script.say("track\n ```python\ntool_call(symbol='A')\n```<|observation|>", "\n It is 5.")
    settings = Settings(temperature=0.0, tools=(), definitions='{"name": "track", "description": "Price"}')
    talk = session("tool")
    list(talk.ask("Price of A?", settings))
    assert talk.conversation.waiting == [1]
    assert talk.steps[-1].status == "waiting"
    list(talk.observe(["5"], settings))
    assert shown(talk)[-1] == ("text", "It is 5.")
    assert talk.steps[1].result == "5"
    with pytest.raises(InvalidMessageError, match="0 calls wait"):
        list(talk.observe(["5"], settings))


@isolated
def test_programs_run_files_come_and_go_and_pictures_stay(session: Make, script: Script) -> None:
    code = (
        "rows = open('n.csv').read().split()\nprint(len(rows))\nopen('out.txt', 'w').write('x')\n"
        "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"
    )
    script.say(f"interpreter\n ```python\n{code}\n```<|observation|>", "\n 2 rows.")
    talk = session("code")
    talk.upload("n.csv", b"a\n1\n")
    list(talk.ask("How many rows?", GREEDY))
    assert talk.conversation.messages[0].content.startswith("#File: ")
    assert talk.steps[0].files == ["n.csv"]
    assert talk.steps[0].text == "How many rows?"
    assert talk.steps[1].text == code
    assert talk.steps[1].result.splitlines()[0] == "2"
    assert [image.data[:4] for image in talk.steps[1].images] == [b"\x89PNG"]
    assert {file.path for file in talk.files()} == {"n.csv", "out.txt"}
    assert talk.fetch("out.txt") == b"x"


@isolated
def test_a_program_that_does_not_end_can_be_stopped(session: Make, script: Script) -> None:
    script.say("interpreter\n ```python\nwhile True: pass\n```<|observation|>", "\n Hi.")
    talk = session("code")
    for event in talk.ask("Loop", GREEDY):
        if isinstance(event, CallEnd):
            threading.Timer(0.3, talk.stop).start()
    call = talk.steps[-1]
    assert (call.kind, call.status) == ("call", "error")
    assert "stopped" in call.result
    list(talk.ask("Are you there?", GREEDY))
    assert shown(talk)[-1] == ("text", "Hi.")


def test_stopping_keeps_what_was_said_and_frees_the_server(
    session: Make, script: Script, server: LiveServer
) -> None:
    script.say(SLOWLY)
    talk = session()
    for number, _ in enumerate(talk.ask("Count", GREEDY)):
        if number == 5:
            talk.stop()
    assert 0 < len(talk.steps[-1].text) < len(SLOWLY.strip())
    assert SLOWLY.strip().startswith(talk.steps[-1].text)
    assert not talk.is_running
    server.wait_until_idle()


def test_leaving_the_iterator_stops_as_well(session: Make, script: Script, server: LiveServer) -> None:
    script.say(SLOWLY)
    talk = session()
    events = talk.ask("Count", GREEDY)
    for _ in itertools.islice(events, 4):
        pass
    events.close()  # type: ignore[attr-defined]
    assert not talk.is_running
    assert talk.steps[-1].kind == "text"
    server.wait_until_idle()


def test_a_tool_that_hangs_does_not_hold_up_a_stop(host: Host, script: Script) -> None:
    let_go = threading.Event()

    @tool
    def wait() -> str:
        """Wait."""
        let_go.wait(30)
        return "late"

    from chatglm3.tools import Toolbox

    script.say("wait\n ```python\ntool_call()\n```<|observation|>")
    with Toolbox(wait) as tools:
        talk = Session(Host(host.api, tools), Conversation(mode="tool"), lambda conversation: None)
        started = time.monotonic()
        for event in talk.ask("Wait", Settings(temperature=0.0, tools=("wait",))):
            if isinstance(event, CallEnd):
                threading.Timer(0.2, talk.stop).start()
        assert time.monotonic() - started < 20
        assert talk.steps[-1].result == "Error: the user stopped this call"
        let_go.set()


def test_regenerate_edit_and_undo(session: Make, script: Script) -> None:
    script.say("\n One.", "\n Two.", "\n Three.")
    talk = session()
    list(talk.ask("Say", GREEDY))
    list(talk.again(GREEDY))
    assert shown(talk) == [("user", "Say"), ("text", "Two.")]
    list(talk.ask("Say more", GREEDY, instead_of=0))
    assert shown(talk) == [("user", "Say more"), ("text", "Three.")]
    assert talk.take_back(1) == "Say more"
    assert shown(talk) == []
    with pytest.raises(InvalidMessageError, match="no question"):
        talk.take_back(0)
    with pytest.raises(InvalidMessageError, match="no question"):
        Conversation().rewind(0)


def test_a_conversation_is_answered_once_at_a_time(session: Make, script: Script) -> None:
    script.say(SLOWLY)
    talk = session()
    first = talk.ask("Count", GREEDY)
    next(first)
    changes: list[Callable[[], object]] = [
        lambda: next(talk.ask("And me?", GREEDY)),
        lambda: next(talk.ask("And me?", GREEDY, instead_of=0)),
        lambda: next(talk.again(GREEDY)),
        lambda: talk.take_back(0),
        lambda: talk.choose_mode("tool"),
    ]
    for change in changes:
        with pytest.raises(BusyError, match="another window"):
            change()
    assert talk.conversation.mode == "chat"
    assert talk.conversation.messages == [Message("user", "Count")]
    assert talk.is_running
    first.close()  # type: ignore[attr-defined]
    talk.choose_mode("tool")
    assert talk.take_back(1) == "Count"


def test_a_stop_is_heard_from_the_first_moment_on(host: Host, script: Script) -> None:
    script.say(SLOWLY)
    talk = Session(host, Conversation(), lambda conversation: talk.stop())
    assert [type(event) for event in talk.ask("Count", GREEDY)] == [Begun]
    assert shown(talk) == [("user", "Count")]
    assert not talk.is_running


def test_announced_files_go_with_the_next_question(session: Make) -> None:
    announced = "#File: /mnt/data/n.csv\n#Size: 4\n#File uploaded\n"
    talk = session("code")
    talk.conversation.set_messages([Message("user", f"{announced}How many rows?"), Message("assistant", "2")])
    talk.uploads = announced.replace("n.csv", "later.csv")
    assert talk.take_back(1) == "How many rows?"
    assert talk.uploads == announced + announced.replace("n.csv", "later.csv")


def test_a_long_conversation_loses_its_oldest_turns(session: Make, script: Script) -> None:
    script.say("\n I remember little.")
    talk = session()
    turn = [Message("user", "word " * 400), Message("assistant", "ok")]
    talk.conversation.set_messages(turn * 6)
    done = list(talk.ask("What do you remember?", GREEDY))[-1]
    assert isinstance(done, Done)
    assert done.dropped > 0
    assert done.dropped % 2 == 0
    assert len(talk.conversation.messages) == 14  # nothing is lost for the person


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (Settings(temperature=-1.0), "temperature is -1"),
        (Settings(definitions="{"), "your tools are not JSON"),
        (Settings(definitions='{"description": "x"}'), "needs a name"),
        (Settings(mcp=("npx something",)), "--mcp"),
    ],
)
def test_what_cannot_be_done_is_said_and_the_question_stays(
    session: Make, settings: Settings, complaint: str
) -> None:
    talk = session("tool")
    events: list[Progress] = list(talk.ask("Hello", settings))
    assert len(events) == 1
    assert complaint in str(talk.problem)
    assert shown(talk) == [("user", "Hello")]


def test_a_server_that_is_not_there(host: Host) -> None:
    talk = Session(Host(Api("http://127.0.0.1:9/v1")), Conversation(), lambda conversation: None)
    list(talk.ask("Hello", GREEDY))
    assert "cannot be reached" in str(talk.problem)
    assert "is it running?" in str(talk.problem)


def test_a_wrong_key_and_a_wrong_model_are_told(server: LiveServer) -> None:
    api = Api(f"{server.url}/v1", model="gpt-4")
    with pytest.raises(ServerError, match="no model 'gpt-4'; it has tiny"):
        _ = api.model
    api.close()
    api = Api(server.url + "/nowhere")
    with pytest.raises(ServerError, match="404"):
        _ = api.model
    api.close()


def test_the_page_samples_as_it_is_set(host: Host, script: Script) -> None:
    """The same seed through the page gives what the engine gives."""
    settings = Settings(temperature=1.5, top_p=1.0, repetition_penalty=1.2, seed=7, max_tokens=12)
    assert settings.sampling == {
        "temperature": 1.5,
        "top_p": 1.0,
        "repetition_penalty": 1.2,
        "seed": 7,
        "max_tokens": 12,
    }
    SamplingParams(**settings.sampling)
    texts = set()
    for _ in range(2):
        talk = Session(host, Conversation(), lambda conversation: None)
        texts.add("".join(e.text for e in talk.ask("x", settings) if isinstance(e, TextDelta)))
    assert len(texts) == 1


def test_own_mcp_servers_are_for_pages_of_this_machine_only(host: Host) -> None:
    from chatglm3.errors import ToolError

    with pytest.raises(ToolError, match="start it with --mcp"):
        open_tools(host, Settings(mcp=("http://127.0.0.1:1/mcp",)))


def test_results_have_their_place(session: Make, script: Script) -> None:
    """Two calls in one reply: each result is drawn at its call, in whatever order they come."""
    second = "get_weather\n ```python\ntool_call(city='Rome')\n```<|observation|>"
    script.say(CALL.replace("<|observation|>", f"<|assistant|>{second}"), "\n Both.")
    talk = session("tool")
    results = [e for e in talk.ask("Oslo and Rome?", GREEDY) if isinstance(e, ToolResult)]
    assert len(results) == 2
    calls: list[Step] = [step for step in talk.steps if step.kind == "call"]
    assert ["Oslo" in calls[0].result, "Rome" in calls[1].result] == [True, True]


def test_own_mcp_servers_are_tools_of_the_session(host: Host, script: Script, tmp_path: Path) -> None:
    pytest.importorskip("mcp", reason="MCP servers need mcp: pip install 'chatglm3[mcp]'")
    server = tmp_path / "server.py"
    server.write_text(
        "from mcp.server import MCPServer\n"
        "server = MCPServer('depth')\n"
        "@server.tool()\n"
        "def depth(lake: str) -> str:\n"
        "    return f'{lake} is 5 m deep'\n"
        "server.run()\n"
    )
    script.say("depth\n ```python\ntool_call(lake='Mummel')\n```<|observation|>", "\n 5 m.")
    settings = Settings(temperature=0.0, tools=(), mcp=(f"{sys.executable} {server}",))
    talk = Session(replace(host, own_mcp=True), Conversation(mode="tool"), lambda conversation: None)
    for event in talk.ask("How deep is it?", settings):
        if isinstance(event, ApprovalWanted):
            talk.approve(True)
    assert talk.problem is None
    assert [step.result for step in talk.steps if step.kind == "call"] == ["Mummel is 5 m deep"]
    talk.close()
