"""Properties of the project as a whole: light imports, complete packages, pinned environments."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def imported_by(code: str) -> set[str]:
    """The top-level modules present after running `code` in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*{{m.split('.')[0] for m in sys.modules}})"],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(done.stdout.splitlines()[-1].split())


def tracked_files() -> list[str]:
    """What git holds, as paths from the root."""
    command = ["git", "-c", "core.quotepath=off", "ls-files"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout: nothing says which files belong to the project")
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    "code",
    [
        "import chatglm3",
        "from chatglm3.cli import main\nmain([])",
        "from chatglm3.cli import chat, download, generate, info, quantize",
    ],
)
def test_importing_costs_neither_torch_nor_the_network(code: str) -> None:
    assert not imported_by(code) & {"torch", "transformers", "numpy", "huggingface_hub", "httpx2", "rich"}


def test_inference_runs_without_transformers() -> None:
    block = "import sys; sys.modules['transformers'] = None\n"
    assert "torch" in imported_by(f"{block}from chatglm3 import ChatGLM3, AutoModel, AutoTokenizer")


def test_an_int4_model_loads_without_what_only_compilers_need() -> None:
    """Some calls on meta tensors import sympy, a third of a second of every start."""
    loaded = imported_by("from chatglm3 import ChatGLM3\nChatGLM3.load('nano', quantize='int4')")
    assert "sympy" not in loaded


def test_help_answers_at_once() -> None:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "chatglm3", "--help"], check=True, stdout=subprocess.DEVNULL)
    assert time.perf_counter() - start < 1.5


def wheel_files() -> dict[str, Path]:
    """Path within the wheel -> the file it comes from."""
    return {
        file.distribution_path: Path(file.path) for file in WheelBuilder(str(ROOT)).recurse_included_files()
    }


def test_the_wheel_holds_the_whole_package_and_nothing_else() -> None:
    shipped = set(wheel_files())
    assert {path for path in tracked_files() if path.startswith("chatglm3/")} <= shipped
    assert {path.split("/")[0] for path in shipped} == {"chatglm3"}


def test_the_embedded_model_is_complete_and_small() -> None:
    nano = {path: file for path, file in wheel_files().items() if path.startswith("chatglm3/models/nano/")}
    assert {"config.json", "tokenizer.model"} <= {file.name for file in nano.values()}
    assert any(file.suffix == ".safetensors" for file in nano.values())
    assert sum(file.stat().st_size for file in nano.values()) <= 16e6


def pins(name: str) -> dict[str, str]:
    """The packages a requirements file names, and their versions; every line must be an exact pin."""
    found = {}
    for raw in (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines():
        line = raw.strip()
        if not line or line.startswith(("#", "-r ")):
            continue
        pin = re.fullmatch(r"([\w.-]+)==([\w.]+)(?: ; .+)?", line)
        assert pin, f"{name}: {line!r} is not an exact pin"
        found[_normal(pin[1])] = pin[2]
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    found = {_normal(re.match(r"[\w.-]+", line)[0]) for line in requirements}  # type: ignore[index]
    return found - {"chatglm3"}


def test_the_pinned_environments_cover_what_the_package_asks_for() -> None:
    extras = PROJECT["optional-dependencies"]
    assert names(PROJECT["dependencies"]) <= set(pins("base.txt"))
    assert names(extras["dev"] + extras["train"]) <= set(pins("base.txt")) | set(pins("dev.txt"))
    assert not set(pins("base.txt")) & set(pins("dev.txt"))


def test_ci_runs_the_documented_test_command() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").rstrip().endswith("make test")


def test_nothing_names_the_machine_it_was_written_on() -> None:
    foreign = re.compile(rb"(?<![\w.])/(work|root|home/\w+)/")
    texts = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".json"}
    listed = [ROOT / path for path in tracked_files()]
    named = [
        path
        for path in listed
        if path.suffix in texts and path.is_file() and foreign.search(path.read_bytes())
    ]
    assert named == []
