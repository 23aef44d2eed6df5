"""`chatglm3 finetune` at a terminal, and the notebook."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatglm3.cli import main
from tests.tiny import write_tiny_checkpoint
from tests.train.runs import conversations, write_lines

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_checkpoint(tmp_path_factory.mktemp("tiny")))


def test_a_check_prints_everything_and_tells_by_its_exit_code(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = str(write_lines(tmp_path / "train.jsonl", conversations(5)))
    dev = str(write_lines(tmp_path / "dev.jsonl", conversations(2)))
    assert main(["finetune", "--check", train, "--validation", dev, "--model", model]) == 0
    shown = capsys.readouterr().out
    assert "train: 5 samples to learn from (5 chatglm3)" in shown
    assert "leak: 2 validation samples ask what a training sample asks, 2 with the same answer" in shown
    assert "learnt    </s>" in shown
    assert shown.endswith("no problems\n")

    bad = str(write_lines(tmp_path / "bad.jsonl", [{"prompt": "x", "response": ""}, *conversations(1)]))
    assert main(["finetune", "--check", bad, "--model", model]) == 1
    shown = capsys.readouterr().out
    assert f"{bad}:1: response: is empty" in shown
    assert shown.endswith("1 problems\n")


def test_keys_and_mistakes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["finetune", "--keys"]) == 0
    assert "lora.rank                    8" in capsys.readouterr().out
    assert main(["finetune"]) == 2
    assert main(["finetune", "output=x", "train=y", "rank=3"]) == 2
    assert "there is no key 'rank'" in capsys.readouterr().err
    assert main(["finetune", str(tmp_path / "none.yaml")]) == 1
    assert "No such file" in capsys.readouterr().err
    assert main(["finetune", "--check", "a", "b.yaml"]) == 2


def test_a_run_says_what_came_out(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = write_lines(tmp_path / "train.jsonl", conversations(8))
    words = [f"model={model}", f"train={train}", f"validation={train}", f"output={tmp_path}/out", "steps=2"]
    assert main(["finetune", *words, "batch_size=2", "max_length=64", "device=cpu"]) == 0
    captured = capsys.readouterr()
    assert "validation loss: " in captured.out
    assert captured.out.endswith(f"done: {tmp_path}/out\n")
    assert "lora: 11,520 numbers are trained" in captured.err
    assert list((tmp_path / "out" / "runs").rglob("events.out.tfevents.*"))
    assert main(["finetune", *words]) == 1
    assert "holds a run already" in capsys.readouterr().err


def test_the_notebook_runs(tmp_path: Path) -> None:
    import nbclient
    import nbformat

    notebook = nbformat.read(ROOT / "examples" / "finetune.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=250, resources={"metadata": {"path": str(tmp_path)}}).execute()
    answer = notebook.cells[-1]["outputs"][-1]["data"]["text/plain"]
    assert "captain" in answer
