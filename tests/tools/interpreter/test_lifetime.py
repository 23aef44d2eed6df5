"""Conversations end completely: no process, folder or port is left, however they end."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatglm3.tools.interpreter import Interpreter
from tests.tools.interpreter.conftest import SMALL, in_mode

if sys.platform != "linux":
    pytest.skip("looks at processes through /proc", allow_module_level=True)

OWNER = """
import sys, time
from chatglm3.tools.interpreter import Interpreter, interpreter, isolations
mode = sys.argv[1]
found = next((isolation for isolation in isolations() if isolation.mode == mode), None)
interpreter.best_isolation = lambda: found
conversation = Interpreter(unsafe=True)
conversation.upload("file", b"x" * 1000)
conversation.execute("import subprocess\\ntry: subprocess.Popen(['sleep', '1000'])\\nexcept OSError: pass")
{last}
"""
WAYS = ("close", "forget", "end", "kill")


def descendants(pid: int) -> set[int]:
    """All processes below one, as this machine numbers them."""
    parents: dict[int, int] = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            parents[int(name)] = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
    found: set[int] = set()
    level = {pid}
    while level:
        level = {child for child, parent in parents.items() if parent in level} - found
        found |= level
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def assert_all_end(pids: set[int], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while any(map(alive, pids)):
        assert time.monotonic() < end, [
            Path(f"/proc/{pid}/cmdline").read_text() for pid in filter(alive, pids)
        ]
        time.sleep(0.02)


def ports(pids: set[int]) -> set[str]:
    """TCP and UDP sockets that these processes have in this machine's network."""
    sockets = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            sockets |= {os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")}
    inodes = set()
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/self/net/{kind}").read_text().splitlines()[1:]
            inodes |= {f"socket:[{line.split()[9]}]" for line in lines}
    return sockets & inodes


@contextlib.contextmanager
def owner(mode: str, folder: Path, last: str) -> Iterator[subprocess.Popen[str]]:
    """A program with one conversation."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER.format(last=last), mode],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def end_conversation(way: str, mode: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Open a conversation, drop it, and find nothing left."""
    patch.setattr("tempfile.tempdir", str(folder))
    before = descendants(os.getpid())
    if way in ("close", "forget"):
        conversation = in_mode(patch, mode)
        conversation.upload("file", b"x")
        assert conversation.execute("1 + 1").text("result") == "2"
        pids = descendants(os.getpid()) - before
        assert len(pids) >= 2
        assert ports(pids) == set()
        if way == "close":
            conversation.close()
        else:
            del conversation
            gc.collect()
    else:
        last = "print('ready', flush=True)" + ("; time.sleep(60)" if way == "kill" else "")
        with owner(mode, folder, last) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            pids = descendants(process.pid)
            assert ports(pids) == set()
            if way == "kill":
                assert len(pids) >= 2
                process.send_signal(signal.SIGKILL)
            process.wait(20)
    assert_all_end(pids)
    end = time.monotonic() + 5
    while left := sorted(path.name for path in folder.iterdir()):
        assert time.monotonic() < end, left
        time.sleep(0.02)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", ["namespaces", "landlock", "unsafe"])
def test_nothing_is_left(mode: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end_conversation(way, mode, tmp_path, monkeypatch)


@pytest.mark.parametrize("mode", ["namespaces", "landlock"])
def test_nothing_is_left_of_a_hundred(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(100):
        end_conversation("kill" if number % 5 == 0 else WAYS[number % 3], mode, tmp_path, monkeypatch)


@pytest.mark.parametrize("mode", ["namespaces", "landlock"])
def test_killing_any_one_process_ends_all(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First process, supervisor and kernel, each killed from outside by whoever may."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for number in range(2):
        before = descendants(os.getpid())
        with in_mode(monkeypatch, mode) as conversation:
            conversation.execute("x = 1")
            pids = descendants(os.getpid()) - before
            os.kill(sorted(pids)[number], signal.SIGKILL)
            assert_all_end(pids)
            told = conversation.execute("print('on')", timeout=20)
            assert (told.status, told.files_lost) == ("died", True)
            assert conversation.execute("print('on')", timeout=20).text("stdout") == "on\n"


def test_a_folder_that_everybody_left_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with owner("landlock", tmp_path, "print('ready', flush=True); time.sleep(60)") as process:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            pytest.skip("this machine cannot isolate by landlock")
        (folder,) = tmp_path.iterdir()
        for pid in [process.pid, *sorted(descendants(process.pid))]:
            os.kill(pid, signal.SIGSTOP)
        for pid in [process.pid, *sorted(descendants(process.pid))]:
            os.kill(pid, signal.SIGKILL)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    time.sleep(0.5)
    with in_mode(monkeypatch, "landlock") as conversation:
        conversation.start()
        assert not folder.exists()
        assert len(list(tmp_path.iterdir())) == 1


def test_an_idle_kernel_ends_and_files_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = type(SMALL)(**{**SMALL.__dict__, "idle_seconds": 0.5})
    before = descendants(os.getpid())
    with in_mode(monkeypatch, "namespaces", limits) as conversation:
        conversation.execute("x = 1; open('kept', 'w').write('y')")
        running = descendants(os.getpid()) - before
        time.sleep(2)
        assert len(running) > len(descendants(os.getpid()) - before)
        told = conversation.execute("print('x' in globals(), open('kept').read())")
        assert told.text("stdout") == "False y\n"
        assert "variables are gone" in told.outputs[0].text


def test_a_forked_child_does_not_end_its_parent_s_conversation(interpreter: Interpreter) -> None:
    interpreter.execute("x = 3")
    child = os.fork()
    if child == 0:
        interpreter.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert interpreter.execute("x").text("result") == "3"


def test_closed_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with in_mode(monkeypatch, "namespaces") as conversation:
        conversation.start()
    conversation.close()
    with pytest.raises(Exception, match="closed"):
        conversation.execute("1")
