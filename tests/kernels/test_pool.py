"""The pool of threads on its own, as several engines use it; and once more under the thread sanitizer."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from chatglm3.kernels import build

SCENARIOS = ["changing_sizes", "several_callers", "failing_pieces", "refused_threads", "forks"]
NOT_UNDER_THE_SANITIZER = ["refused_threads", "forks"]
"""It needs memory without end, and allows no threads after a fork."""


def compile_driver(folder: Path, *flags: str) -> Path:
    """`pool.cpp` with the pool's own source. Skips where it cannot be compiled."""
    driver = folder / "pool"
    sources = [Path(__file__).with_name("pool.cpp"), build.SOURCES / "threads.cpp"]
    options = ["-std=c++20", "-O1", "-g", "-pthread", f"-I{build.SOURCES}", *flags]
    try:
        command = [*build.compiler(), *options, *map(str, sources), "-o", str(driver)]
    except build.CannotBuildError as error:
        pytest.skip(str(error))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        if flags:
            pytest.skip(f"no compiler with {flags}: {done.stderr}")
        pytest.fail(done.stderr)
    return driver


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_driver(tmp_path_factory.mktemp("pool"))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_driver(tmp_path_factory.mktemp("watched"), "-fsanitize=thread")


def run(driver: Path, scenario: str) -> None:
    done = subprocess.run([driver, scenario], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_pool(driver: Path, scenario: str) -> None:
    run(driver, scenario)


@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name not in NOT_UNDER_THE_SANITIZER])
def test_no_data_races(watched: Path, scenario: str) -> None:
    run(watched, scenario)
