"""The command, with a model that says what a test wants: `REPLIES.json chat ...` are its arguments."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from chatglm3.chat import ChatGLM3
from chatglm3.cli import chat, main
from chatglm3.cli.arguments import load
from tests.scripted import scripted


def script(replies: list[str]) -> None:
    """Let `chatglm3 chat` say `replies`, one after the other, whatever it is asked."""

    def scripted_load(args: argparse.Namespace) -> ChatGLM3:
        return scripted(load(args), *replies, computes=False)

    chat.load = scripted_load  # type: ignore[attr-defined]


if __name__ == "__main__":
    script(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    sys.exit(main(sys.argv[2:]))
