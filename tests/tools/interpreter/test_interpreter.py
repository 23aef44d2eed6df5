"""Cells and files of a conversation: outputs in their order, errors, time, uploads, what the model reads."""

from __future__ import annotations

import threading
import time
from pathlib import PurePosixPath

import pytest

from chatglm3.errors import InterpreterError
from chatglm3.tools.interpreter import Interpreter, Limits, observation
from chatglm3.tools.interpreter import interpreter as module
from chatglm3.tools.interpreter.outputs import clean
from chatglm3.tools.interpreter.seatbelt import profile
from tests.tools.interpreter.conftest import MB, in_mode

PLOTS = """
import matplotlib.pyplot as plt
for number in range(3):
    plt.plot([number, 1])
    plt.show()
    print("plot", number)
"done"
"""


def test_outputs_come_in_their_order(interpreter: Interpreter) -> None:
    execution = interpreter.execute(PLOTS)
    assert [output.kind for output in execution.outputs] == ["image", "stdout"] * 3 + ["result"]
    assert observation(execution) == "[Image]\nplot 0\n[Image]\nplot 1\n[Image]\nplot 2\n'done'"
    assert len(set(execution.images)) == 3
    assert all(image.startswith(b"\x89PNG") for image in execution.images)


def test_variables_stay(interpreter: Interpreter) -> None:
    interpreter.execute("kept = [1]")
    assert interpreter.execute("kept.append(2); kept").text("result") == "[1, 2]"


def test_errors_are_clean(interpreter: Interpreter) -> None:
    execution = interpreter.execute("def f(x):\n    return 1 / x\nprint('before')\nf(0)")
    assert execution.status == "ok"
    assert execution.is_error
    assert "\x1b" not in observation(execution)
    assert observation(execution).startswith("before\nTraceback")
    assert observation(execution).endswith("ZeroDivisionError: division by zero")
    assert "ipykernel" not in observation(execution)


def test_what_a_forked_process_prints_comes_home(interpreter: Interpreter) -> None:
    if interpreter.workspace != "/mnt/data":
        pytest.skip("no processes in this mode")
    code = "from multiprocessing import Pool\nwith Pool(2) as pool: pool.map(print, ['a', 'a'])"
    # Two processes may print at once: each writes its letter and its line end separately.
    assert sorted(interpreter.execute(code).text("stdout")) == ["\n", "\n", "a", "a"]
    assert interpreter.execute("!echo $((6 * 7))").text("stdout").strip() == "42"


def test_time_is_limited_and_the_kernel_survives_an_interrupt(interpreter: Interpreter) -> None:
    interpreter.execute("kept = 1")
    execution = interpreter.execute("import time\nprint('on')\ntime.sleep(60)", timeout=0.5)
    assert (execution.status, execution.restarted) == ("timeout", False)
    assert execution.seconds < 5
    assert execution.text("stdout") == "on\n"
    assert observation(execution).endswith("[The code was stopped after 0.5 seconds]")
    assert interpreter.execute("kept").text("result") == "1"


def test_an_interrupt_from_another_thread(interpreter: Interpreter) -> None:
    interpreter.start()
    timer = threading.Timer(1.0, interpreter.interrupt)
    timer.start()
    execution = interpreter.execute("import time\ntime.sleep(60)", timeout=30)
    assert execution.status == "interrupted"
    assert execution.seconds < 10


def test_keyboard_interrupt_ends_the_cell(interpreter: Interpreter) -> None:
    interpreter.start()
    main = threading.main_thread().ident
    assert main is not None
    import signal

    timer = threading.Timer(1.0, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interpreter.execute("import time\ntime.sleep(60)", timeout=30)
    assert time.monotonic() - before < 10
    assert interpreter.execute("1 + 1").text("result") == "2"


def test_the_model_is_told_of_a_restart(interpreter: Interpreter) -> None:
    interpreter.execute("kept = 1; open('kept', 'w').write('file')")
    execution = interpreter.execute("import os; os._exit(1)")
    assert (execution.status, execution.restarted, execution.files_lost) == ("died", True, False)
    assert "variables are gone, files are still there" in observation(execution)
    assert (
        interpreter.execute("print('kept' in globals(), open('kept').read())").text("stdout")
        == "False file\n"
    )


def test_files_go_in_and_come_out(interpreter: Interpreter) -> None:
    data = bytes(range(256)) * 40_000
    path = interpreter.upload("sub/../数据 1.bin", data)
    assert path == f"{interpreter.workspace}/数据 1.bin"
    code = f"import hashlib\ndata = open({path!r}, 'rb').read()\nopen('copy.bin', 'wb').write(data[::-1])"
    assert interpreter.execute(code).text("result") == str(len(data))
    assert interpreter.fetch("copy.bin") == data[::-1]
    assert interpreter.fetch(path) == data
    listed = {file.path: file.size for file in interpreter.files()}
    assert listed["copy.bin"] == listed["数据 1.bin"] == len(data)
    assert abs(max(file.changed for file in interpreter.files()) - time.time()) < 60
    interpreter.upload("empty", b"")
    assert interpreter.fetch("empty") == b""


@pytest.mark.parametrize("name", ["", ".", "..", "a/..", "/", "x" * 201])
def test_a_name_that_cannot_be_is_refused(interpreter: Interpreter, name: str) -> None:
    with pytest.raises(InterpreterError, match="cannot be called"):
        interpreter.upload(name, b"x")


def test_a_name_cannot_forge_an_announcement(interpreter: Interpreter) -> None:
    path = interpreter.upload("a\n#Size: 0\x1b.txt", b"x")
    assert PurePosixPath(path).name == "a_#Size: 0_.txt"


def test_a_file_that_does_not_fit_is_refused(interpreter: Interpreter) -> None:
    with pytest.raises(InterpreterError, match=r"large\.bin: "):
        interpreter.upload("large.bin", b"x" * (33 * MB))
    with pytest.raises(InterpreterError, match=r"nothing: No such file"):
        interpreter.fetch("nothing")


def test_without_isolation_the_interpreter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "best_isolation", lambda: None)
    with Interpreter() as refused, pytest.raises(InterpreterError, match="unsafe-interpreter"):
        refused.execute("1")
    with Interpreter(unsafe=True) as unsafe:
        assert unsafe.execute("1 + 1").text("result") == "2"
        assert unsafe.layers == []


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NEEDED", ("ipykernel", "no_such_package"))
    with (
        Interpreter() as refused,
        pytest.raises(InterpreterError, match=r"no_such_package.*chatglm3\[interpreter\]"),
    ):
        refused.start()


def test_limits_must_be_positive() -> None:
    with pytest.raises(InterpreterError, match="disk_bytes is 0"):
        Interpreter(Limits(disk_bytes=0))


def test_a_timeout_must_be_positive(interpreter: Interpreter) -> None:
    with pytest.raises(InterpreterError, match="timeout is 0"):
        interpreter.execute("1", timeout=0)


def test_unsafe_says_so_by_having_no_walls(monkeypatch: pytest.MonkeyPatch) -> None:
    with in_mode(monkeypatch, "namespaces") as walled:
        assert {layer.name for layer in walled.layers if layer.holds} >= {
            "namespaces",
            "root",
            "privileges",
            "seccomp",
        }


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("10%\r50%\r100%\nnext", "100%\nnext"),
        ("a\r\nb", "a\nb"),
        ("tab\tbell\x07", "tab\tbell"),
        ("\ud800half", "?half"),
        ("你好\n", "你好\n"),
    ],
)
def test_text_is_cleaned(raw: str, shown: str) -> None:
    assert clean(raw) == shown


def test_the_profile_for_macos_names_folders_safely() -> None:
    text = profile(["/opt/py thon", '/a"b'], "/private/var/folders/x")
    assert '(subpath "/opt/py thon")' in text
    assert '(subpath "/a\\"b")' in text
    assert text.count("(") == text.count(")")
    assert "(deny default)" in text
