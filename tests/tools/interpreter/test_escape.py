"""Code that wants out, or wants all: each attempt is refused or bounded, and the conversation goes on.

Every cell prints what it got; a test passes only if that is a refusal. The limits are small (see conftest),
so that a bomb which is not stopped hurts nobody.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chatglm3.tools.interpreter import Execution, Interpreter, observation
from tests.tools.interpreter.conftest import MB

Run = Callable[..., Execution]
SECRET = "the-secret-of-the-parent"
ATTEMPT = """
def attempt(action):
    try:
        print("GOT", repr(action())[:200])
    except BaseException as error:
        print("refused", type(error).__name__)
"""


def attempts(run: Run, *actions: str, timeout: float = 20.0) -> list[str]:
    """What became of each expression."""
    cell = ATTEMPT + "\n".join(f"attempt(lambda: {action})" for action in actions)
    execution = run(cell, timeout=timeout)
    lines = execution.text("stdout").splitlines()
    assert len(lines) == len(actions), observation(execution)
    return lines


def all_refused(run: Run, *actions: str) -> None:
    """Every expression must raise."""
    assert [line for line in attempts(run, *actions) if not line.startswith("refused")] == []


@pytest.fixture(scope="module", autouse=True)
def secret() -> Iterator[None]:
    """Something in the environment and the memory of the process that runs the conversation."""
    os.environ["CHATGLM3_TEST_SECRET"] = SECRET
    yield
    del os.environ["CHATGLM3_TEST_SECRET"]


def test_the_home_folder_and_the_project_are_not_there(run: Run) -> None:
    home, project = str(Path.home()), str(Path(__file__).resolve().parents[3])
    all_refused(
        run,
        f"open({str(Path(project, 'pyproject.toml'))!r}).read()",
        f"open({str(Path(home, '.bashrc'))!r}).read()",
        f"open({str(Path(home, '.ssh', 'id_rsa'))!r}).read()",
        f"[__import__('os').listdir({project!r})][0].remove('pyproject.toml')",
        f"open({__file__!r}).read()",
    )


def test_secrets_of_the_system_are_not_there(run: Run) -> None:
    all_refused(
        run,
        "open('/etc/shadow').read()",
        "open('/etc/sudoers').read()",
        "open('/proc/kcore', 'rb').read(1)",
        "open('/dev/mem', 'rb').read(1)",
        "open('/proc/1/root/etc/shadow').read()",
    )


def test_the_parent_s_environment_and_memory_are_out_of_reach(run: Run) -> None:
    pid = os.getpid()
    all_refused(
        run,
        f"open('/proc/{pid}/environ').read()",
        f"open('/proc/{pid}/mem', 'rb').read(1)",
        f"open('/proc/{pid}/maps').read()",
        "open('/proc/1/environ').read()",
        "open('/proc/1/mem', 'rb')",
    )
    seen = run("import os; print(sorted(os.environ)); print(dict(os.environ))")
    assert SECRET not in observation(seen)
    assert "CHATGLM3" not in observation(seen)


def test_no_process_holds_the_parent_s_secret(run: Run) -> None:
    """All environments and command lines that can be read, whoever's they are."""
    code = """
import glob
found = b""
for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/cmdline"):
    try:
        found += open(path, "rb").read()
    except OSError:
        pass
print(b"CHATGLM3_TEST_SECRET" in found, b"pytest" in found)
"""
    assert run(code).text("stdout") == "False False\n"


def test_nothing_outside_can_be_written(run: Run) -> None:
    target = Path(tempfile.gettempdir(), f"chatglm3-escaped-{os.getpid()}")
    package = Path(sys.prefix, "lib", "escaped.py")
    all_refused(
        run,
        "open('/usr/escaped', 'w')",
        "open('/etc/passwd', 'a')",
        "open('/proc/sys/kernel/core_pattern', 'w')",
        f"open({str(package)!r}, 'w')",
        f"open({str(Path(__file__).with_name('escaped'))!r}, 'w')",
        f"open({sys.executable!r}, 'ab')",
    )
    run(f"open({str(target)!r}, 'w').write('x')")
    assert not target.exists()


def test_permissions_outside_cannot_be_changed(run: Run) -> None:
    """Landlock lets it pass, so that this is seccomp's to do; it pretends."""
    before = os.stat(sys.executable)
    run(f"import os; os.chmod({sys.executable!r}, 0o777)")
    run(f"import os; os.utime({sys.executable!r}, (1, 1))")
    run(f"import os; os.setxattr({sys.executable!r}, 'user.x', b'1')")
    assert os.stat(sys.executable) == before


def test_no_socket_reaches_anything(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        port = tcp.getsockname()[1]
        path = os.path.join(tempfile.mkdtemp(), "s")
        unix.bind(path)
        unix.listen()
        abstract = socket.socket(socket.AF_UNIX)
        abstract.bind("\0chatglm3-test")
        abstract.listen()
        hosts = ["127.0.0.1", "10.0.0.1", socket.gethostname()]
        all_refused(
            run,
            *(f"__import__('socket').create_connection(({host!r}, {port}), 2)" for host in hosts),
            f"__import__('socket').socket(2, 2).sendto(b'x', ('127.0.0.1', {port}))",
            "__import__('socket').socket(2, 3)",
            "__import__('socket').socket(10, 1)",
            "__import__('socket').socket(17, 3)",
            f"__import__('socket').socket(1).connect({path!r})",
            "__import__('socket').socket(1).connect('\\0chatglm3-test')",
            "__import__('urllib.request').request.urlopen('http://example.com', timeout=2)",
            "__import__('socket').getaddrinfo('example.com', 80)",
        )  # fmt: skip
        abstract.close()


def test_a_fork_bomb_is_bounded(interpreter: Interpreter, run: Run) -> None:
    code = """
import os, time
children = 0
try:
    while children < 2000:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        children += 1
except OSError as error:
    print("refused", children)
"""
    execution = run(code, timeout=20)
    refused = execution.text("stdout").split()
    assert refused[0] == "refused"
    assert int(refused[1]) < interpreter.limits.processes
    run("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", timeout=2)


def test_memory_is_bounded(run: Run) -> None:
    all_refused(run, "bytearray(10 * 2**30)")
    for code in (
        "x = []\nwhile True: x.append(bytearray(2**20))",
        "import numpy\nx = numpy.ones(10 * 2**27)",
    ):
        execution = run(code, timeout=30)
        assert execution.is_error
        assert execution.seconds < 20


def test_memory_of_many_processes_is_bounded(interpreter: Interpreter, run: Run) -> None:
    code = """
import os, time
for _ in range(10):
    if os.fork() == 0:
        try:
            x = bytearray(b"x") * (60 << 20)
            time.sleep(20)
        finally:
            os._exit(0)
time.sleep(15)
print("survived")
"""
    execution = run(code, timeout=20)
    assert "survived" not in execution.text("stdout")


def test_shared_memory_is_bounded(run: Run) -> None:
    code = """
import mmap
kept = []
for _ in range(100):
    kept.append(mmap.mmap(-1, 16 << 20))
    for page in range(0, 16 << 20, 4096):
        kept[-1][page] = 1
print("survived")
"""
    assert "survived" not in run(code, timeout=30).text("stdout")
    all_refused(run, "__import__('os').memfd_create('x')")


def test_the_disk_is_bounded(interpreter: Interpreter, run: Run) -> None:
    code = """
import os, tempfile
folders = {".", tempfile.gettempdir(), os.path.expanduser("~"), "/dev/shm"}
written = 0
for folder in folders:
    try:
        for number in range(300):
            with open(os.path.join(folder, f"bomb{number}"), "wb") as file:
                for _ in range(8):
                    written += file.write(b"x" * (1 << 20))
    except OSError as error:
        print(error.strerror)
try:
    with open("big", "wb") as file:
        file.seek(100 << 30)
        file.write(b"x")
    print("GOT 100 GB")
except OSError as error:
    print("refused")
print(written >> 20)
"""
    execution = run(code, timeout=60)
    lines = execution.text("stdout").splitlines()
    assert "refused" in lines or execution.restarted, observation(execution)
    if not execution.restarted:
        assert int(lines[-1]) <= interpreter.limits.disk_bytes / MB + 8
    cleared = run("""
import glob, os, tempfile
for folder in (".", tempfile.gettempdir(), os.path.expanduser("~"), "/dev/shm"):
    for path in glob.glob(os.path.join(folder, "b*")):
        os.remove(path)
open("small", "w").write("fits again")
""")
    assert cleared.text("result") == "10"


def test_output_is_bounded(interpreter: Interpreter, run: Run) -> None:
    code = "import sys\nfor _ in range(10_000): sys.stdout.write('x' * 100_000)\nprint('last')"
    execution = run(code, timeout=60)
    assert execution.status == "ok"
    assert len(observation(execution)) < interpreter.limits.output_chars + 200
    assert "cut after 5000 characters" in observation(execution)
    execution = run("'x' * (100 << 20)", timeout=60)
    assert len(observation(execution)) < interpreter.limits.output_chars + 500
    execution = run("import os\nfor _ in range(100): os.write(1, b'y' * 1_000_000)", timeout=60)
    assert len(observation(execution)) < interpreter.limits.output_chars + 500


def test_the_parent_can_neither_be_traced_nor_killed(run: Run) -> None:
    pid, supervisor = os.getpid(), os.getppid()
    code = f"""
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
for pid in ({pid}, {supervisor}, 1, os.getppid()):
    for request in (16, 0x4206):
        print(libc.ptrace(request, pid, 0, 0))
for pid in ({pid}, {supervisor}):
    try:
        os.kill(pid, signal.SIGKILL)
        print("GOT")
    except OSError:
        print(-1)
"""
    execution = run(code)
    assert set(execution.text("stdout").split()) == {"-1"}, observation(execution)


def test_signals_to_everybody_reach_nobody_outside(interpreter: Interpreter, run: Run) -> None:
    witness = subprocess.Popen(["sleep", "60"])
    for target in ("-1", "1", "os.getppid()"):
        for signal in ("SIGSTOP", "SIGINT", "SIGTERM", "SIGKILL"):
            interpreter.execute(f"import os, signal; os.kill({target}, signal.{signal})", timeout=10)
    assert witness.poll() is None
    witness.kill()
    witness.wait()


def test_links_do_not_lead_out(interpreter: Interpreter, run: Run) -> None:
    outside = Path(tempfile.mkdtemp(), "outside")
    outside.write_text(SECRET)
    run(
        f"import os; os.symlink({str(outside)!r}, 'soft')\n"
        "os.symlink('/', 'root'); os.symlink('/etc/shadow', 'shadow')"
    )
    all_refused(
        run,
        "open('soft').read()",
        "open('shadow').read()",
        f"__import__('os').link({str(outside)!r}, 'hard')",
        f"__import__('os').link({sys.executable!r}, 'python')",
        f"__import__('os').rename({str(outside)!r}, 'moved')",
    )
    for path in ("soft", "shadow", "root/etc/passwd", "../../etc/passwd", "/etc/passwd", str(outside)):
        with pytest.raises(Exception, match=r"."):
            interpreter.fetch(path)
    interpreter.upload("soft", b"replaced")
    assert outside.read_text() == SECRET
    assert interpreter.fetch("soft") == b"replaced"
    assert all(not file.path.startswith("root") for file in interpreter.files())


def test_a_pipe_in_the_workspace_does_not_block_the_program(interpreter: Interpreter, run: Run) -> None:
    run("import os; os.mkfifo('pipe')")
    with pytest.raises(Exception, match="regular"):
        interpreter.fetch("pipe")
    interpreter.upload("pipe", b"over it")
    assert interpreter.fetch("pipe") == b"over it"


def test_nobody_becomes_root(interpreter: Interpreter, run: Run) -> None:
    all_refused(run, "__import__('os').setgroups([0])", "__import__('os').chroot('.')")
    all_refused(run, "__import__('os').unshare(0x10000000)")
    if interpreter.workspace == "/mnt/data":  # otherwise it is the user's own id, which may be 0: see CapEff
        all_refused(run, "__import__('os').setuid(0)", "__import__('os').setgid(0)")
        all_refused(run, "__import__('os').chown('/usr', 1000, 1000)")
    code = """
import subprocess
for command in (["su", "-c", "id"], ["mount", "-t", "tmpfs", "x", "/mnt"], ["unshare", "-Ur", "id"]):
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=10)
        print(done.returncode != 0 and b"uid=0" not in done.stdout)
    except OSError:
        print(True)
status = open("/proc/self/status").read()
print(int(status.split("CapEff:")[1].split()[0], 16) == 0)
"""
    assert set(run(code, timeout=40).text("stdout").split()) == {"True"}


def test_a_set_user_id_file_gives_nothing(run: Run) -> None:
    all_refused(
        run,
        "__import__('os').mknod('device', 0o60666, 259)",
        "__import__('os').mknod('/tmp/null', 0o20666, 259)",
    )
    run("import os, shutil; open('suid', 'w').write('#!/bin/sh\\nid -u'); os.chmod('suid', 0o4755)")
    result = run("import subprocess; print(subprocess.run(['./suid'], capture_output=True).stdout)")
    assert "b'0\\n'" not in observation(result)


def test_background_processes_end_with_their_cell(interpreter: Interpreter, run: Run) -> None:
    mark = "97531"
    code = f"""
import subprocess
for command in (["sleep", "{mark}"], ["setsid", "sleep", "{mark}"], ["sh", "-c", "setsid sleep {mark} &"]):
    try:
        subprocess.Popen(command)
    except OSError:
        pass
"""
    run(code)
    time.sleep(0.2)
    assert (
        mark not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    )


def test_a_background_thread_does_not_disturb_later_cells(run: Run) -> None:
    run("""
import threading, time
def noise():
    end = time.time() + 2
    while time.time() < end:
        print("noise")
        time.sleep(0.01)
thread = threading.Thread(target=noise)
thread.start()
""")
    assert "quiet" in run("print('quiet')").text("stdout")
    run("thread.join()")


FORGE = """
import json, time, zmq
from ipykernel.kernelapp import IPKernelApp
kernel = IPKernelApp.instance().kernel
session, publish = kernel.session, kernel.iopub_socket
def forge(kind, content, parent=None):
    session.send(publish, kind, content, parent=parent or kernel.get_parent(), ident=b"x")
"""


def test_forged_messages_end_nothing_but_their_own_cell(run: Run) -> None:
    run(FORGE)
    ended = run(
        "forge('status', {'execution_state': 'idle'}); time.sleep(1); print('still here')", timeout=20
    )
    assert ended.status == "ok"
    assert ended.text("stdout") == "still here\n"
    foreign = "{'msg_id': 'of-another-cell', 'msg_type': 'execute_request'}"
    other = run(
        f"forge('stream', {{'name': 'stdout', 'text': 'lies'}}, {{'header': {foreign}}}); print('truth')"
    )
    assert other.text("stdout") == "truth\n"


@pytest.mark.parametrize(
    "content",
    [
        "'stream', {'name': 7, 'text': 7}",
        "'stream', {}",
        "'stream', {'name': 'stdout', 'text': 'x' * 50_000_000}",
        "'display_data', {'data': {'image/png': 'no base64 at all'}}",
        "'display_data', {'data': {'image/png': 'A' * 50_000_000}}",
        "'display_data', {'data': {'image/png': __import__('base64').b64encode(b'<script>').decode()}}",
        "'display_data', {'data': 7}",
        "'error', {'traceback': 7}",
        "'error', {'traceback': ['x' * 1_000_000] * 20}",
        "'status', {'execution_state': {}}",
        "'\\x00', {'a': {}}",
    ],
)
def test_forged_nonsense_is_dropped(run: Run, interpreter: Interpreter, content: str) -> None:
    run(FORGE)
    execution = run(f"forge({content}); print('and on')", timeout=20)
    assert len(observation(execution)) < interpreter.limits.output_chars + 7000
    assert execution.images == []


def test_raw_nonsense_on_the_channels_is_survived(run: Run) -> None:
    run(FORGE)
    run("for _ in range(500): publish.send_multipart([b'x'] * 9)", timeout=20)
    run("publish.send(b'{' * 100_000)", timeout=20)
    run(
        "session.send(publish, 'stream', {}, ident=b'x'); publish.send_multipart([b'x'] * 50_000)", timeout=20
    )
    run(
        "import os\nfor fd in range(3, 60):\n    try: os.write(fd, b'x' * 7000)\n    except OSError: pass",
        timeout=2,
    )


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "f = lambda: f()\nimport sys\nsys.setrecursionlimit(10**9)\nf()",
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "x = 10 ** 10 ** 10",
        "import time\nwhile True:\n    try: time.sleep(100)\n    except: pass",
        "import re\nre.match(r'(a+)+$', 'a' * 50 + 'b')",
        "import os\nos._exit(3)",
        "import ctypes\nctypes.string_at(0)",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
        "import atexit, time\natexit.register(time.sleep, 100)\nexit()",
    ],
)
def test_endless_and_fatal_code_is_ended(run: Run, code: str) -> None:
    before = time.monotonic()
    execution = run(code, timeout=1.0)
    assert time.monotonic() - before < 12
    assert execution.is_error or "exit" in code


def test_deep_recursion_is_an_error_of_the_cell(run: Run) -> None:
    execution = run("def f(): return f()\nf()")
    assert execution.status == "ok"
    assert "RecursionError" in observation(execution)
    assert len(observation(execution)) < 8000
