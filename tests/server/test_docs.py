"""What docs/server.md tells the reader to type works, with the embedded model."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from chatglm3 import ChatGLM3
from chatglm3.server import Settings
from tests.server.conftest import LiveServer
from tests.test_readme import ROOT, blocks

OURS = "test_docs.py"


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "server.md").read_text(encoding="utf-8")
    ours = [block for block in blocks(page) if OURS in (block.excuse or "")]
    assert {block.language for block in ours} == {"bash", "python"}
    namespace: dict[str, Any] = {}
    with LiveServer(ChatGLM3.load("nano", device="cpu"), Settings(model_names=("nano",))) as server:
        for block in ours:
            code = block.code.replace("http://127.0.0.1:8000", server.url)
            if block.language == "python":
                exec(compile("\n" * block.line + code, "docs/server.md", "exec"), namespace)
                continue
            done = subprocess.run(
                ["bash", "-ec", code.replace("curl ", "curl --silent --show-error --fail --noproxy '*' ")],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, f"line {block.line}: {done.stderr}{done.stdout}"
            assert done.stdout
        server.wait_until_idle()
