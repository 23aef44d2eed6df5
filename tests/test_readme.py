"""What the documentation tells the reader to type works: commands run, Python runs, links lead somewhere.

A code block that cannot run here is preceded by a comment: `<!-- no-test: needs the 6B weights -->`.
The Python blocks of a page are one program, in order; its shell lines run in one folder.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "README_zh.md", *sorted((ROOT / "docs").glob("**/*.md"))]
SHELL = {"bash", "sh", "shell", "console"}
PYTHON = {"python", "py"}
# Steps of an installation, which the machine that runs this test has behind it.
INSTALLATION = re.compile(r"(git clone|cd|pip install|python3? -m venv|source|\. )\b")


@dataclass(frozen=True)
class Block:
    """A fenced code block; `line` is that of its fence."""

    language: str
    code: str
    line: int
    excuse: str | None = None


def blocks(markdown: str) -> Iterator[Block]:
    """The fenced blocks of a page, each with the reason not to test it, if one is given right before it."""
    excuse: str | None = None
    fence, language, start, body = "", "", 0, list[str]()
    for number, line in enumerate(markdown.splitlines(), 1):
        if fence:
            if line.strip() == fence:
                yield Block(language, "\n".join(body) + "\n", start, excuse)
                fence, excuse = "", None
            else:
                body.append(line)
        elif opening := re.match(r"\s*(`{3,}|~{3,})\s*(\w*)", line):
            fence, language, start, body = opening[1], opening[2].lower(), number, []
            assert language, f"line {number}: a code block without a language"
        elif comment := re.match(r"\s*<!--\s*no-test\b:?(.*?)-->", line):
            excuse = comment[1].strip()
            assert excuse, f"line {number}: no-test needs a reason"
        elif line.strip():
            excuse = None


def shell_lines(block: Block) -> list[str]:
    """The commands of a block, continued lines joined; in a console transcript, those after a `$`."""
    commands = []
    for raw in block.code.replace("\\\n", " ").splitlines():
        line = raw.strip()
        prompted = line.startswith("$ ")
        if block.language == "console" and not prompted:
            continue
        line = line.removeprefix("$ ")
        if line and not line.startswith("#"):
            commands.append(line)
    return commands


@functools.cache
def work_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="chatglm3-readme-"))


@functools.cache
def run_shell(line: str) -> None:
    """Run a command of ours; `make` only says what it would do; anything else needs a no-test reason."""
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    env["XDG_STATE_HOME"] = str(work_folder())
    folder = work_folder()
    if INSTALLATION.match(line):
        return
    if line.startswith("make "):
        line, folder = line.replace("make ", "make -n ", 1), ROOT
    assert re.search(r"(^|\| )(chatglm3|python -m chatglm3|make) ", line), f"this test cannot run {line!r}"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        check=False,
        cwd=folder,
        env=env,
        input="你好\n",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{line}\nexit code {done.returncode}\n{done.stdout}{done.stderr}"


def run_page(path: Path) -> int:
    """Run a page's blocks; the number of those that ran."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    ran = 0
    for block in blocks(path.read_text(encoding="utf-8")):
        if block.excuse or block.language not in SHELL | PYTHON:
            continue
        try:
            if block.language in PYTHON:
                # The offset makes a traceback name the page's own lines.
                exec(compile("\n" * block.line + block.code, str(path), "exec"), namespace)
            else:
                for line in shell_lines(block):
                    run_shell(line)
        except (Exception, SystemExit) as error:
            pytest.fail(f"{path.name}, line {block.line}: {type(error).__name__}: {error}")
        ran += 1
    return ran


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_page_shows_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work_folder())
    ran = run_page(page)
    assert ran or not page.name.startswith("README"), "the README shows nothing that runs"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    dead = [link for link in links if ":" not in link and not (page.parent / link).exists()]
    assert dead == []


@pytest.mark.parametrize("page", PAGES[:2], ids=lambda path: path.name)
def test_the_first_screen_names_both_commands(page: Path) -> None:
    screen = "\n".join(page.read_text(encoding="utf-8").splitlines()[:40])
    assert "make chat" in screen
    assert "make test" in screen


SAMPLE = """
```bash
git clone https://example.org/x && cd x
make chat            # talk
echo 你好 | chatglm3 chat \\
    --json
```

<!-- no-test: needs a GPU -->

```python
raise SystemExit("not run")
```

```python
ran = 1
```

```console
$ chatglm3 --version
chatglm3 0.1.0
```

```text
<!-- no-test: inside a block, text -->
```
"""


def test_blocks_commands_and_excuses_are_read() -> None:
    found = list(blocks(SAMPLE))
    assert [(block.language, block.excuse) for block in found] == [
        ("bash", None),
        ("python", "needs a GPU"),
        ("python", None),
        ("console", None),
        ("text", None),
    ]
    assert shell_lines(found[0])[1:] == [
        "make chat            # talk",
        "echo 你好 | chatglm3 chat      --json",
    ]
    assert shell_lines(found[3]) == ["chatglm3 --version"]


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        ("```python\n1 / 0\n```", "ZeroDivisionError"),
        ("```bash\nchatglm3 no-such-command\n```", "exit code 2"),
        ("```bash\nmake no-such-target\n```", "no-such-target"),
        ("```bash\nrm -rf something\n```", "cannot run"),
    ],
)
def test_a_block_that_does_not_work_fails_the_page(tmp_path: Path, block: str, complaint: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"Text.\n\n{block}\n", encoding="utf-8")
    with pytest.raises(pytest.fail.Exception, match=f"(?s)page.md, line 3.*{complaint}"):
        run_page(page)


@pytest.mark.parametrize("text", ["<!-- no-test -->\n", "<!-- no-test: -->\n", "```\nuntold language\n```\n"])
def test_a_missing_reason_or_language_is_an_error(text: str) -> None:
    with pytest.raises(AssertionError, match="line 1"):
        list(blocks(text))
