"""What docs/adapters.md tells the reader to type works, with the embedded model and two random adapters."""

from __future__ import annotations

import io
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chatglm3 import ChatGLM3
from chatglm3.cli import main
from chatglm3.config import ModelConfig
from chatglm3.hub import EMBEDDED
from chatglm3.server import Settings
from tests.adapters.files import lora_tensors, write_lora
from tests.server.conftest import LiveServer
from tests.test_readme import ROOT, blocks, shell_lines

OURS = "tests/adapters/test_docs.py"


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = ModelConfig.from_folder(EMBEDDED["nano"])
    for seed, name in enumerate(("poet", "clerk")):
        write_lora(tmp_path / name, lora_tensors(config, seed=seed), alpha=0.1)  # they change little
    page = (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8")
    ours = [block for block in blocks(page) if OURS in (block.excuse or "")]
    assert {block.language for block in ours} == {"bash", "python"}
    namespace: dict[str, Any] = {}
    glm = ChatGLM3.load("nano", device="cpu", adapter={"poet": "./poet", "clerk": "./clerk"})
    with LiveServer(glm, Settings(model_names=("nano",))) as server:
        for block in ours:
            if block.language == "python":
                exec(compile("\n" * block.line + block.code, "docs/adapters.md", "exec"), namespace)
                continue
            for line in shell_lines(block):
                if line.startswith("chatglm3 "):
                    monkeypatch.setattr("sys.stdin", io.StringIO("hi"))
                    monkeypatch.setattr("chatglm3.cli.chat.read_stdin", sys.stdin.read)
                    assert main(shlex.split(line)[1:]) == 0, line
                else:
                    _curl(line.replace("http://127.0.0.1:8000", server.url))
        server.wait_until_idle()


def _curl(line: str) -> None:
    command = line.replace("curl ", "curl --silent --show-error --fail --noproxy '*' ")
    done = subprocess.run(["bash", "-ec", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{line}\n{done.stderr}{done.stdout}"
    assert done.stdout, line
