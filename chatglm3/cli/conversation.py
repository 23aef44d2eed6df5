"""A conversation in the terminal: its messages, its sampling, and the commands that change them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from chatglm3.chat import load_transcript, save_transcript
from chatglm3.cli.arguments import SAMPLING, did_you_mean, parse_parameter, size
from chatglm3.engine import SamplingParams
from chatglm3.errors import ChatGLM3Error
from chatglm3.prompt import Message

if TYPE_CHECKING:
    from chatglm3.tools.interpreter import Interpreter

KEYS = """\
Enter sends. For several lines: Alt+Enter, a backslash at the end of a line,
or \"\"\" before and after the text. Ctrl-C stops an answer, Ctrl-D leaves.
A space in front makes a message of what looks like a command."""


class LeaveError(Exception):
    """The person has asked to leave."""


class Conversation:
    """The messages so far and how the next one is sampled."""

    def __init__(
        self, sampling: SamplingParams, system: str | None = None, interpreter: Interpreter | None = None
    ) -> None:
        self.sampling = sampling
        self.messages: list[Message] = []
        self.uploads = ""
        """What the next message begins with, so that the model knows of new files."""
        self._interpreter = interpreter
        if system:
            self._set_system(system)

    def command(self, line: str) -> str | None:
        """Run a command and return what it has to say; None if the line is a message for the model.

        Raises ChatGLM3Error for a command that cannot be done, OSError for a file, LeaveError to leave.
        """
        bare = {"clear": "/clear", "stop": "/exit"}.get(line.strip(), line)
        if not (found := re.fullmatch(r"/([a-z]*)(?:\s+(.*?))?\s*", bare, re.DOTALL)):
            return None
        name, argument = found[1], found[2] or ""
        if name not in COMMANDS:
            known = did_you_mean(name, COMMANDS).replace("'", "'/", 1)
            raise ChatGLM3Error(f"there is no command /{name}{known}; /help lists them")
        return COMMANDS[name].run(self, argument)

    def _help(self, _: str) -> str:
        width = max(len(command.usage) for command in COMMANDS.values())
        lines = [f"{command.usage:<{width}}  {command.help}" for command in COMMANDS.values()]
        return "\n".join([*lines, "", KEYS])

    def _system(self, text: str) -> str:
        if text:
            self._set_system("" if text == '""' else text)
        system = self.messages[0].content if self._has_system() else None
        return f"system prompt: {system}" if system else "there is no system prompt"

    def _set(self, words: str) -> str:
        name, _, value = words.replace("=", " ").partition(" ")
        if name:
            self.sampling = self.sampling.replace(**{name: parse_parameter(name, value.strip())})
        shown = [name] if name else list(SAMPLING)
        return "\n".join(f"{name} = {getattr(self.sampling, name)}" for name in shown)

    def _save(self, file: str) -> str:
        path = _path(file, "/save FILE")
        save_transcript(path, self.messages)
        return f"{len(self.messages)} messages saved to {path}"

    def _load(self, file: str) -> str:
        path = _path(file, "/load FILE")
        self.messages = load_transcript(path)
        return f"{len(self.messages)} messages loaded from {path}"

    def _upload(self, file: str) -> str:
        path = _path(file, "/upload FILE")
        from chatglm3.tools.interpreter import announce_upload

        data = path.read_bytes()
        inside = self._running().upload(path.name, data)
        self.uploads += announce_upload(inside, len(data))
        return f"{inside} ({size(len(data))}); the model is told with your next message"

    def _files(self, _: str) -> str:
        files = self._running().files()
        return "\n".join(f"{size(file.size):>10}  {file.path}" for file in files) or "there are no files"

    def _fetch(self, file: str) -> str:
        if not file:
            raise ChatGLM3Error("name a file: /fetch FILE; /files lists them")
        data = self._running().fetch(file)
        path = Path(PurePosixPath(file).name)
        with path.open("xb") as copy:  # over nothing that is here already
            copy.write(data)
        return f"{path.absolute()} ({size(len(data))})"

    def _running(self) -> Interpreter:
        if self._interpreter is None:
            raise ChatGLM3Error("there is no code interpreter here; start with --interpreter")
        return self._interpreter

    def _clear(self, _: str) -> str:
        self.messages = self.messages[:1] if self._has_system() else []
        return "the conversation starts afresh"

    def _exit(self, _: str) -> str:
        raise LeaveError

    def _has_system(self) -> bool:
        return bool(self.messages) and self.messages[0].role == "system"

    def _set_system(self, text: str) -> None:
        rest = self.messages[1:] if self._has_system() else self.messages
        self.messages = [Message("system", text), *rest] if text else list(rest)


@dataclasses.dataclass(frozen=True)
class Command:
    """What is typed, what it does, and the code that does it."""

    usage: str
    help: str
    run: Callable[[Conversation, str], str]


COMMANDS = {
    "help": Command("/help", "this list", Conversation._help),
    "system": Command("/system TEXT", 'set the system prompt; "" removes it', Conversation._system),
    "set": Command("/set NAME VALUE", "change a sampling parameter; /set alone shows all", Conversation._set),
    "save": Command("/save FILE", "write the conversation as JSON", Conversation._save),
    "load": Command("/load FILE", "go on with a saved conversation", Conversation._load),
    "upload": Command("/upload FILE", "give the code interpreter a file", Conversation._upload),
    "files": Command("/files", "list the code interpreter's files", Conversation._files),
    "fetch": Command("/fetch FILE", "copy one of them to this folder", Conversation._fetch),
    "clear": Command("/clear, clear", "forget the conversation, keep the system prompt", Conversation._clear),
    "exit": Command("/exit, stop", "leave", Conversation._exit),
}


def _path(file: str, usage: str) -> Path:
    if not file:
        raise ChatGLM3Error(f"name a file: {usage}")
    return Path(file).expanduser()
