"""The Streamlit page with nano behind a real server, in Streamlit's own simulation of a browser."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("streamlit", reason="the Streamlit page needs chatglm3[streamlit]")
from streamlit.components.v2.component_manager import BidiComponentManager
from streamlit.runtime.context import ContextProxy
from streamlit.testing.v1 import AppTest

from chatglm3 import ChatGLM3
from chatglm3.prompt import Message, ToolCall
from chatglm3.server import Settings as ServerSettings
from chatglm3.tools import Image, Toolbox
from chatglm3.web import Api, Conversation, Host, Store, Users, export, streamlit_app
from chatglm3.web.browser import COOKIE
from chatglm3.web.conversation import Detail
from chatglm3.web.streamlit_follow import follow
from chatglm3.web.texts import EN, ZH
from tests.scripted import called
from tests.server.conftest import LiveServer
from tests.server.scripted import Script
from tests.web.conftest import delete_notes, get_weather

SCRIPT = Path(streamlit_app.__file__).with_name("streamlit_script.py")
SECONDS = 120.0
COMPONENTS = BidiComponentManager()  # none: to look for some in every installed package takes 2 s a tab
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c63f8cfc0f01f00050001ff56c72f0d0000000049454e44ae426082"
)
DEFINITION = {"name": "find_train", "description": "Find a train.", "parameters": {"type": "object"}}


@pytest.fixture(scope="module")
def model() -> Iterator[LiveServer]:
    glm = ChatGLM3.load("nano", device="cpu")
    with LiveServer(glm, ServerSettings(model_names=("nano",))) as live:
        yield live


@pytest.fixture(scope="module")
def nano_script(model: LiveServer) -> Script:
    return Script(model.glm)


@pytest.fixture
def script(nano_script: Script) -> Script:
    """Lets nano say what a test wants; without a line left it speaks for itself."""
    nano_script.forget()
    return nano_script


@pytest.fixture
def users(model: LiveServer, script: Script) -> Iterator[Users]:
    api = Api(f"{model.url}/v1")
    made = Users(Host(api, Toolbox(get_weather, delete_notes), own_mcp=True), Store(None))
    yield made
    made.close()
    api.close()


class Tab:
    """A page in the browser `browser`, and what a person does there."""

    def __init__(self, browser: str, locale: str = "en-US", address: str = "") -> None:
        self.browser = browser
        self.app = AppTest.from_file(SCRIPT, default_timeout=SECONDS)
        self.app._bidi_component_manager = COMPONENTS
        self.app.context["locale"] = locale
        if address:
            self.app.query_params["c"] = address
        self.run()

    def run(self) -> Tab:
        with pytest.MonkeyPatch.context() as patch:  # simulated apps have no cookies
            patch.setattr(ContextProxy, "cookies", property(lambda _: {COOKIE: self.browser}))
            self.app.run()
        assert not self.app.exception
        return self

    def send(self, text: str) -> Tab:
        self.app.chat_input[0].set_value(text)
        return self.run()

    def ask(self, text: str) -> Tab:
        return self.send(text).wait()

    def wait(self, until: Callable[[], bool] | None = None) -> Tab:
        """Look again and again, as the page does in a browser, until the answer has ended."""
        deadline = time.monotonic() + SECONDS
        while not (until() if until else not self.has("stop")):
            assert time.monotonic() < deadline, "the answer did not end"
            time.sleep(0.05)
            self.run()
        return self

    def has(self, key: str) -> bool:
        return any(button.key == key for button in self.app.button)

    def click(self, key: str) -> Tab:
        self.app.button(key=key).click()
        return self.run()

    def mode(self, mode: str) -> Tab:
        self.app.segmented_control(key="mode").set_value(mode)
        return self.run()

    @property
    def said(self) -> list[str]:
        return [element.value for element in self.app.main.markdown]

    @property
    def codes(self) -> list[str]:
        return [element.value for element in self.app.code]

    @property
    def errors(self) -> list[str]:
        return [element.value for element in self.app.error]


@pytest.fixture
def browse(users: Users) -> Callable[..., Tab]:
    """Opens the page in a browser of its own, which its name tells from others."""
    streamlit_app.publish(streamlit_app.Site(users, {}))
    return Tab


@pytest.fixture
def tab(browse: Callable[..., Tab]) -> Tab:
    return browse("ada")


def test_the_page_greets_in_each_mode_and_language(browse: Callable[..., Tab]) -> None:
    tab = browse("ada")
    for mode in ("tool", "code", "chat"):
        tab.mode(mode)
        assert tab.said == [EN.greeting[mode].format(model="nano")]
    assert tab.click("language").said == [ZH.greeting["chat"].format(model="nano")]
    assert browse("li", locale="zh-CN").app.chat_input[0].placeholder == ZH.placeholder


def test_an_answer_is_drawn_while_it_is_written_and_kept(browse: Callable[..., Tab], users: Users) -> None:
    tab = browse("ada").send("Hello!")
    assert tab.has("stop")
    assert not tab.has("again")
    assert tab.app.chat_input[0].disabled
    tab.wait()
    question, answer = tab.said
    assert question == "Hello!"
    assert answer
    assert "of 2,048 tokens" in tab.app.caption[-1].value
    kept = users.list("browser:ada")[0]
    assert kept.title == "Hello!"
    assert tab.app.query_params["c"] == kept.id
    assert browse("ada").said == [question, answer]  # a reload
    assert browse("ada", address=kept.id).said == [question, answer]


def test_an_answer_is_stopped_in_the_middle_and_made_anew(tab: Tab, script: Script) -> None:
    words = " ".join(f"word{number}" for number in range(250))
    script.say(words, "Short.")
    tab.send("Count.").wait(lambda: "word3" in tab.said[-1])
    assert tab.has("stop")
    tab.click("stop").wait()
    assert words.startswith(tab.said[-1])
    assert len(tab.said[-1]) < len(words)
    assert tab.click("again").wait().said == ["Count.", "Short."]


def test_a_question_is_taken_back_to_be_edited(tab: Tab, script: Script) -> None:
    script.say("One.", "Two.")
    tab.ask("first").ask("second").click("edit")
    assert tab.said == ["first", "One."]
    assert tab.app.chat_input[0].proto.value == "second"
    assert tab.app.chat_input[0].proto.set_value


def test_conversations_are_begun_opened_and_deleted(tab: Tab, script: Script, users: Users) -> None:
    script.say("One.", "Two.")
    tab.ask("first").click("new").ask("second")
    newest, oldest = users.list("browser:ada")
    assert (newest.title, oldest.title) == ("second", "first")
    assert tab.click(f"open-{oldest.id}").said == ["first", "One."]
    tab.click("delete")
    assert tab.said == [EN.greeting["chat"].format(model="nano")]
    assert [entry.id for entry in users.list("browser:ada")] == [newest.id]


def test_two_browsers_do_not_see_each_other(browse: Callable[..., Tab], script: Script) -> None:
    ada, li = browse("ada"), browse("li")
    script.say("For Ada.", "For Li.")
    ada.ask("I am Ada")
    li.ask("I am Li")
    assert ada.run().said == ["I am Ada", "For Ada."]
    stranger = browse("li", address=ada.app.query_params["c"])
    assert "I am Ada" not in stranger.said
    assert len(stranger.errors) == 1  # it does not exist, for them


def test_a_call_is_folded_with_its_arguments_and_result(tab: Tab, script: Script) -> None:
    tab.app.multiselect(key="tools").set_value(["get_weather"])
    tab.run().mode("tool")
    script.say(called("get_weather", "city='Oslo'"), "It is warm.")
    tab.ask("How is Oslo?")
    (status,) = tab.app.status
    assert status.state == "complete"
    assert "get\\_weather" in status.label
    assert [json.loads(code) for code in tab.codes] == [{"city": "Oslo"}, {"city": "Oslo", "celsius": 21}]
    assert tab.said[-1] == "It is warm."


@pytest.mark.parametrize("choice", ["allow", "refuse"])
def test_a_tool_that_changes_something_asks_before_it_is_run(choice: str, tab: Tab, script: Script) -> None:
    tab.app.multiselect(key="tools").set_value(["delete_notes"])
    tab.run().mode("tool")
    script.say(called("delete_notes", "name='ideas'"), "Well.")
    tab.send("Away with my ideas").wait(lambda: tab.has(choice))
    assert len(tab.app.warning) == 1
    tab.click(choice).wait()
    assert (tab.codes[1] == "ideas is gone") == (choice == "allow")
    assert tab.said[-1] == "Well."


def test_the_person_answers_calls_of_own_definitions(tab: Tab, script: Script, users: Users) -> None:
    tab.app.text_area(key="definitions").set_value(json.dumps(DEFINITION))
    tab.run().mode("tool")
    script.say(called("find_train", "to='Bergen'"), "At noon.")
    tab.ask("When does it leave?")
    (result,) = [area for area in tab.app.text_area if (area.key or "").startswith("result-")]
    result.set_value("12:00")
    next(button for button in tab.app.button if button.label == EN.send).click()
    tab.run().wait()
    assert tab.codes[1] == "12:00"
    assert tab.said[-1] == "At noon."


def test_a_program_reads_an_uploaded_file_draws_and_writes_one(tab: Tab, script: Script) -> None:
    from chatglm3.tools.interpreter import best_isolation

    if best_isolation() is None:
        pytest.skip("this machine cannot isolate a code interpreter")
    program = (
        "from IPython.display import Image, display\nopen('out.txt', 'w').write('made')\n"
        "display(Image('dot.png'))\nprint(len(open('numbers.csv').readlines()))"
    )
    script.say(f"interpreter\n```python\n{program}\n```", "There are two.")
    tab.app.chat_input[0].upload("numbers.csv", b"1\n2\n").upload("dot.png", PNG)
    tab.ask("How many rows?")
    assert tab.app.segmented_control(key="mode").value == "code"
    (status,) = tab.app.status
    assert status.state == "complete"
    assert tab.codes[0] == program
    assert tab.codes[1].endswith("2")
    assert len(tab.app.image) == 1
    assert {button.label for button in tab.app.main.download_button} >= {r"dot\.png", r"out\.txt"}
    assert r":material/attach_file: numbers\.csv" in [caption.value for caption in tab.app.caption]


def test_settings_are_kept_and_used(browse: Callable[..., Tab], users: Users, script: Script) -> None:
    tab = browse("ada")
    tab.app.slider(key="temperature").set_value(0.0)
    tab.app.number_input(key="max_tokens").set_value(3)
    tab.app.text_area(key="system").set_value("Be brief.")
    tab.run()
    kept = users.store.settings("browser:ada")
    assert (kept.temperature, kept.max_tokens, kept.system) == (0.0, 3, "Be brief.")
    assert browse("ada").app.slider(key="temperature").value == 0.0
    assert browse("li").app.slider(key="temperature").value == 0.8
    script.say("one two three four five six")
    answer = tab.ask("Count").said[1]
    assert "one two three".startswith(answer)


def test_a_conversation_is_imported_and_what_is_none_is_refused(tab: Tab) -> None:
    call = [
        Message.call(ToolCall("get_weather", {"city": "Oslo"})),
        Message("observation", "sunny"),
        Message("assistant", "Sun!"),
    ]
    given = Conversation(title="Weather", mode="tool", messages=[Message("user", "Oslo?"), *call])
    given.details = {2: Detail([Image(PNG, "image/png"), Image(b"<svg/>", "image/svg+xml")], 0.5)}
    tab.app.file_uploader[0].set_value(("talk.md", export.to_markdown(given).encode(), "text/markdown"))
    assert tab.run().said == ["Oslo?", "Sun!"]
    assert tab.app.status[0].label.endswith("0.5 s")
    assert len(tab.app.image) == 1  # what a browser might run is not shown
    tab.app.file_uploader[0].set_value(("talk.json", b"no", "application/json"))
    assert len(tab.run().errors) == 1
    assert tab.said == ["Oslo?", "Sun!"]


def test_a_server_that_is_away_is_named_with_what_to_do(users: Users) -> None:
    away = Users(Host(Api("http://127.0.0.1:9/v1")), users.store)
    streamlit_app.publish(streamlit_app.Site(away, {}))
    tab = Tab("ada").ask("Hello?")
    assert "cannot be reached" in tab.errors[0].replace("\\", "")
    assert tab.said == ["Hello?"]
    streamlit_app.publish(streamlit_app.Site(users, {}))  # it is back
    assert len(Tab("ada").click("again").wait().said) == 2


def test_who_logs_in_sees_their_conversations_and_nobody_else(users: Users, script: Script) -> None:
    streamlit_app.publish(streamlit_app.Site(users, {"ada": "secret"}))
    tab = Tab("any")
    assert not tab.app.chat_input
    for password, errors in (("wrong", 1), ("secret", 0)):
        tab.app.text_input(key="name").set_value("ada")
        tab.app.text_input(key="password").set_value(password)
        tab.app.button[0].click()
        assert len(tab.run().errors) == errors
    script.say("Hello Ada.")
    assert tab.ask("It is me").said == ["It is me", "Hello Ada."]
    assert [entry.title for entry in users.list("user:ada")] == ["It is me"]


def test_an_answer_that_nobody_looks_at_is_stopped(users: Users, script: Script, model: LiveServer) -> None:
    script.say(" ".join("word" for _ in range(500)))
    session = users.new("ada")
    follow(session, session.ask("Count.", users.store.settings("ada")), gone_seconds=0.2)
    assert session.is_running
    deadline = time.monotonic() + SECONDS
    while session.is_running:
        assert time.monotonic() < deadline, "nothing stopped it"
        time.sleep(0.02)
    assert len(session.conversation.steps[-1].text.split()) < 500
    model.wait_until_idle()
