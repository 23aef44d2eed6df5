"""Interpreters for the tests: small boxes, in every mode that this machine can isolate with."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("ipykernel", reason="the extra 'interpreter' is not installed")

from chatglm3.tools.interpreter import Execution, Interpreter, Isolation, Limits, isolations, observation
from chatglm3.tools.interpreter import interpreter as module

MB = 1 << 20
SMALL = Limits(memory_bytes=400 * MB, disk_bytes=32 * MB, processes=64, output_chars=5000)
"""Enough for a kernel with numpy, little enough that no bomb hurts the machine that tests."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Minutes of conversations are run on demand."""
    if item.get_closest_marker("slow") and "slow" not in item.config.option.markexpr:
        pytest.skip("takes minutes: run it with -m slow")


def works(mode: str) -> Isolation:
    """The isolation of this mode; skips the test if this machine has it not."""
    found = {isolation.mode: isolation for isolation in isolations()}[mode]
    if not found.works:
        pytest.skip(f"this machine cannot isolate by {mode} ({found.reason})")
    return found


def in_mode(patch: pytest.MonkeyPatch, mode: str, limits: Limits = SMALL) -> Interpreter:
    """An interpreter that isolates in this mode and no other; "unsafe" for none."""
    isolation = None if mode == "unsafe" else works(mode)
    patch.setattr(module, "best_isolation", lambda: isolation)
    return Interpreter(limits, unsafe=mode == "unsafe")


@pytest.fixture(scope="module", params=["namespaces", "landlock"])
def interpreter(request: pytest.FixtureRequest) -> Iterator[Interpreter]:
    """One conversation for all tests of a file: what one test does must not spoil the next."""
    with pytest.MonkeyPatch.context() as patch, in_mode(patch, request.param) as found:
        found.start()
        found.mode = request.param  # type: ignore[attr-defined]
        yield found


@pytest.fixture
def run(interpreter: Interpreter) -> Iterator[Callable[..., Execution]]:
    """Runs a cell; afterwards the conversation must go on."""
    yield interpreter.execute
    after = interpreter.execute("1 + 1", timeout=20)
    assert after.status == "ok"
    assert observation(after).endswith("2")
