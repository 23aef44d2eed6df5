"""The interpreter in a conversation: the model's programs are run, and it reads on from their output."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from chatglm3 import ChatGLM3, Done, Message, ToolImage
from chatglm3.errors import ToolError
from chatglm3.prompt import INTERPRETER
from chatglm3.tools import Toolbox
from chatglm3.tools.interpreter import Interpreter, announce_upload, interpreter_tool
from tests.scripted import scripted
from tests.tiny import write_tiny_checkpoint


@pytest.fixture(scope="module")
def glm(tmp_path_factory: pytest.TempPathFactory) -> ChatGLM3:
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model", max_seq_len=4096)
    return ChatGLM3.load(folder, device="cpu")


def program(code: str) -> str:
    """What the model writes to run code."""
    return f"{INTERPRETER}\n ```python\n{code}\n```"


PLOT = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\nprint(6 * 7)"


def test_code_is_run_and_the_model_reads_on(glm: ChatGLM3, interpreter: Interpreter) -> None:
    model = scripted(glm, program(PLOT), "\n It is 42.")
    events = list(model.stream("画图", interpreter=interpreter))
    done = events[-1]
    assert isinstance(done, Done)
    assert done.content == "It is 42."
    assert done.history[2] == Message("observation", "[Image]\n42")
    (image,) = [event.image for event in events if isinstance(event, ToolImage)]
    assert image.data.startswith(b"\x89PNG")


def test_variables_last_as_long_as_the_interpreter(glm: ChatGLM3, interpreter: Interpreter) -> None:
    first = scripted(glm, program("x = 5"), "\n Done.").chat("a", interpreter=interpreter)
    assert first.results[0].content == "[No output]"
    second = scripted(glm, program("x + 1"), "\n 6").chat("b", history=first.history, interpreter=interpreter)
    assert second.results[0].content == "6"


def test_an_error_goes_to_the_model(glm: ChatGLM3, interpreter: Interpreter) -> None:
    done = scripted(glm, program("1/0"), program("print(1)"), "\n Ok.").chat("a", interpreter=interpreter)
    assert [result.is_error for result in done.results] == [True, False]
    assert done.results[0].content.endswith("ZeroDivisionError: division by zero")


def test_the_system_prompt_names_the_workspace(glm: ChatGLM3, interpreter: Interpreter) -> None:
    model = scripted(glm, "\n Hi.")
    model.chat("hello", interpreter=interpreter)
    assert f"{interpreter.workspace}/。" in model.tokenizer.decode(model.engine.prompts[-1])  # type: ignore[attr-defined]
    own = scripted(glm, "\n Hi.")
    own.chat([Message("system", "Be brief."), Message("user", "hello")], interpreter=interpreter)
    assert interpreter.workspace not in own.tokenizer.decode(own.engine.prompts[-1])  # type: ignore[attr-defined]


def test_an_uploaded_file_is_announced_and_there(glm: ChatGLM3, interpreter: Interpreter) -> None:
    path = interpreter.upload("数据.csv", b"a,b\n1,2\n")
    assert announce_upload(path, 8) == f"#File: {path}\n#Size: 8\n#File uploaded\n"
    code = f"import pandas as pd\nprint(pd.read_csv({path!r})['b'][0])"
    done = scripted(glm, program(code), "\n 2").chat("b?", interpreter=interpreter)
    assert done.results[0].content == "2"


def test_tools_and_interpreter_go_together(glm: ChatGLM3, interpreter: Interpreter) -> None:
    toolbox = Toolbox(interpreter=interpreter_tool(interpreter))
    done = scripted(glm, program("7"), "\n 7").chat("a", tools=toolbox)
    assert done.results[0].content == "7"
    with pytest.raises(ToolError, match="not both"):
        glm.chat("a", tools=toolbox, interpreter=interpreter)


def test_endless_code_can_be_interrupted_from_another_thread(glm: ChatGLM3, interpreter: Interpreter) -> None:
    path = Path(interpreter.workspace, "started").as_posix()
    stream = scripted(glm, program(f"open({path!r}, 'w')\nwhile True: pass"), "\n ?").stream(
        "a", interpreter=interpreter
    )
    failure: list[BaseException] = []

    def read() -> None:
        try:
            list(stream)
        except BaseException as error:
            failure.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(2.0)
    interpreter.interrupt()
    reader.join(10)
    assert not reader.is_alive()
    assert failure == []
    assert interpreter.execute("1 + 1").text("result") == "2"


def test_an_interpreter_for_one_answer_ends_with_it(glm: ChatGLM3, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Interpreter] = []
    plain = Interpreter.__init__

    def spy(self: Interpreter, *args: object, **kwargs: object) -> None:
        plain(self, *args, **kwargs)  # type: ignore[arg-type]
        made.append(self)

    monkeypatch.setattr(Interpreter, "__init__", spy)
    done = scripted(glm, program("print(3)"), "\n 3").chat("a", interpreter=True)
    assert done.results[0].content == "3"
    assert [interpreter.close.alive for interpreter in made] == [False]
