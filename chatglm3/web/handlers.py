"""What happens on the page: handlers look up whose conversation it is, and give what is to be drawn."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import gradio as gr

from chatglm3.errors import ChatGLM3Error
from chatglm3.prompt import CallDelta, TextDelta
from chatglm3.tools import Toolbox
from chatglm3.web import export
from chatglm3.web.browser import COOKIE
from chatglm3.web.conversation import Conversation, Mode
from chatglm3.web.drawing import chat_messages, markdown
from chatglm3.web.live import Begun
from chatglm3.web.session import BusyError, Progress, Session, open_tools
from chatglm3.web.settings import Settings
from chatglm3.web.texts import Texts
from chatglm3.web.users import Users

FRAME_SECONDS = 0.06
LARGEST_FILE = 32 * 2**20

View: TypeAlias = dict[str, Any]
"""What changes: a part of the page by its name, and its new value or `gr.update`."""


class Handlers:
    """The events of the page, in one language.

    folder: where pictures and files are put for the browser to fetch.
    """

    def __init__(self, users: Users, texts: Texts, folder: Path) -> None:
        self._users = users
        self._texts = texts
        self._folder = folder
        self._tabs: dict[str, Session] = {}  # those in which an answer was begun, by Gradio's session

    def open(self, id: str, request: gr.Request) -> View:
        """Show a conversation, the newest, or a new one."""
        owner = _owner(request)
        session = self._users.session(owner, id) if id else None
        if session is None and not id and (kept := self._users.list(owner)):
            session = self._users.session(owner, kept[0].id)
        session = session or self._users.new(owner)
        return {**self._view(owner, session), "settings": self._users.store.settings(owner)}

    def new(self, mode: Mode, request: gr.Request) -> View:
        """Begin a conversation."""
        owner = _owner(request)
        return {**self._view(owner, self._users.new(owner, mode)), "message": _EMPTY}

    def delete(self, id: str, mode: Mode, request: gr.Request) -> View:
        """Forget a conversation; an empty id: the person has thought better of it."""
        if not id:
            return {}
        self._users.delete(_owner(request), id)
        return self.new(mode, request)

    def choose_mode(self, id: str, mode: Mode, request: gr.Request) -> View:
        """Go on in another mode."""
        owner, session = self._session(id, request)
        try:
            session.choose_mode(mode)
        except ChatGLM3Error as error:
            self._complain(error)
        return self._view(owner, session)

    def send(self, message: Mapping[str, Any], id: str, mode: Mode, request: gr.Request) -> Iterator[View]:
        """Answer a question, and take the files that come with it."""
        text = str(message.get("text") or "")
        files = [Path(file) for file in message.get("files") or ()]
        owner, session = self._session(id, request)
        if not text.strip() and not files:
            yield {}
            return
        try:
            session.choose_mode("code" if files else mode)
            for file in files:
                session.upload(file.name, file.read_bytes())
        except (ChatGLM3Error, OSError) as error:
            self._complain(error)
            yield {}
            return
        if not text.strip():
            gr.Info(self._texts.uploaded.format(names=", ".join(file.name for file in files)))
            yield {**self._view(owner, session), "message": _EMPTY}
            return
        yield from self._follow(owner, session, session.ask(text, self._settings(owner)), request)

    def again(self, id: str, request: gr.Request) -> Iterator[View]:
        """Answer the last question anew."""
        owner, session = self._session(id, request)
        yield from self._follow(owner, session, session.again(self._settings(owner)), request)

    def edit(self, id: str, data: gr.EditData, request: gr.Request) -> Iterator[View]:
        """Ask an earlier question in other words; what came after it goes."""
        owner, session = self._session(id, request)
        earlier = self._message(session, data.index)
        answer = session.ask(_text(data.value), self._settings(owner), instead_of=earlier)
        yield from self._follow(owner, session, answer, request)

    def undo(self, id: str, data: gr.UndoData, request: gr.Request) -> View:
        """Take back a question and its answer; its text can be written anew."""
        owner, session = self._session(id, request)
        try:
            text = session.take_back(self._message(session, data.index))
        except ChatGLM3Error as error:
            self._complain(error)
            return self._view(owner, session)
        return {**self._view(owner, session), "message": {"text": text, "files": []}}

    def observe(self, result: str, id: str, request: gr.Request) -> Iterator[View]:
        """Go on with the result of a call, which the person gives; with several, when all are there."""
        owner, session = self._session(id, request)
        session.observed.append(result)
        if len(session.observed) < len(session.conversation.waiting):
            yield self._view(owner, session)
            return
        results, session.observed = session.observed, []
        yield from self._follow(owner, session, session.observe(results, self._settings(owner)), request)

    def stop(self, id: str, request: gr.Request) -> None:
        """End the answer."""
        self._session(id, request)[1].stop()

    def allow(self, id: str, request: gr.Request) -> None:
        """Let the call in `approval` be run."""
        self._session(id, request)[1].approve(True)

    def always_allow(self, id: str, request: gr.Request) -> None:
        """Let it and all later ones of its tool be run."""
        self._session(id, request)[1].approve(True, always=True)

    def refuse(self, id: str, request: gr.Request) -> None:
        """Do not let it be run; the model is told."""
        self._session(id, request)[1].approve(False)

    def leave(self, request: gr.Request) -> None:
        """The tab has been closed."""
        if session := self._tabs.pop(str(request.session_hash), None):
            session.stop()

    def export_json(self, id: str, request: gr.Request) -> str:
        """The conversation as a JSON file to download."""
        conversation = self._session(id, request)[1].conversation
        return self._written(conversation, "json", export.to_json(conversation))

    def export_markdown(self, id: str, request: gr.Request) -> str:
        """The conversation as a Markdown file to download."""
        conversation = self._session(id, request)[1].conversation
        return self._written(conversation, "md", export.to_markdown(conversation))

    def _written(self, conversation: Conversation, suffix: str, text: str) -> str:
        name = re.sub(r"[^\w-]+", "-", conversation.title).strip("-")[:40] or "conversation"
        folder = self._folder / conversation.id
        folder.mkdir(exist_ok=True)
        path = folder / f"{name}.{suffix}"
        path.write_text(text, encoding="utf-8")
        return str(path)

    def import_file(self, file: str, request: gr.Request) -> View:
        """A conversation from a file."""
        owner = _owner(request)
        try:
            session = self._users.add(owner, export.read_file(file))
        except (ChatGLM3Error, OSError) as error:
            gr.Warning(str(error))
            return {}
        gr.Info(self._texts.imported)
        return self._view(owner, session)

    def save_settings(  # noqa: PLR0917 - Gradio gives the inputs by position
        self,
        system: str,
        temperature: float,
        top_p: float,
        max_tokens: float | None,
        repetition_penalty: float,
        seed: float | None,
        tools: list[str],
        definitions: str,
        mcp: str,
        request: gr.Request,
    ) -> str:
        """Keep settings; returns what to say about them."""
        settings = Settings(
            system=system,
            temperature=temperature,
            top_p=top_p,
            max_tokens=int(max_tokens or 0),
            repetition_penalty=repetition_penalty,
            seed=None if seed is None else int(seed),
            tools=tuple(tools),
            definitions=definitions,
            mcp=tuple(line.strip() for line in mcp.splitlines() if line.strip()),
        )
        try:
            _ = settings.sampling
        except ChatGLM3Error as error:
            return self._texts.error.format(reason=markdown(str(error)))
        self._users.store.save_settings(_owner(request), settings)
        return self._texts.saved

    def check_tools(self, request: gr.Request) -> str:
        """What the settings offer in Tool, or why they cannot."""
        try:
            with open_tools(self._users.host, self._settings(_owner(request))) as toolbox:
                names = ", ".join(f"`{tool.name}`" for tool in toolbox) or self._texts.none
        except ChatGLM3Error as error:
            return self._texts.error.format(reason=markdown(str(error)))
        return f"{self._texts.offered}: {names}"

    def _follow(
        self, owner: str, session: Session, events: Iterator[Progress], request: gr.Request
    ) -> Iterator[View]:
        """Draw an answer while it is made, a few times a second."""
        self._tabs[str(request.session_hash)] = session
        drawn = 0.0
        try:
            for event in events:
                if isinstance(event, Begun):
                    yield {
                        **self._view(owner, session),
                        "message": gr.update(value=_EMPTY, submit_btn=False, stop_btn=True),
                    }
                    continue
                now = time.monotonic()
                if now - drawn < FRAME_SECONDS and isinstance(event, (TextDelta, CallDelta)):
                    continue
                drawn = now
                yield {"chat": self._chat(session)[0], **self._approval(session)}
        except ChatGLM3Error as error:
            self._complain(error)
        finally:
            self._tabs.pop(str(request.session_hash), None)
        yield {**self._view(owner, session), "message": gr.update(submit_btn=True, stop_btn=False)}

    def _view(self, owner: str, session: Session) -> View:
        """All that depends on the conversation."""
        conversation = session.conversation
        entries = self._users.list(owner)
        known = any(entry.id == conversation.id for entry in entries)
        greeting = self._texts.greeting[conversation.mode].format(model=self._model_name())
        return {
            "current": conversation.id,
            "conversations": gr.update(
                choices=[(entry.title or "…", entry.id) for entry in entries],
                value=conversation.id if known else None,
            ),
            "mode": conversation.mode,
            "chat": gr.update(value=self._chat(session)[0], placeholder=greeting),
            "status": self._status(conversation),
            **self._approval(session),
            **self._observation(session),
            # A program under way holds the interpreter, and the list of its files would wait for it.
            **({} if session.is_running else self._files(session)),
        }

    def _chat(self, session: Session) -> tuple[list[dict[str, Any]], list[int]]:
        messages, numbers = chat_messages(session.steps, self._texts, self._folder)
        if session.problem is not None:
            reason = markdown(str(session.problem))
            text = f"{self._texts.error.format(reason=reason)}\n\n{self._texts.retry_hint}"
            messages.append({"role": "assistant", "content": text})
            numbers.append(len(session.steps) - 1)
        return messages, numbers

    def _message(self, session: Session, index: int | tuple[int, int]) -> int:
        """The message of the conversation that is drawn as the chat's message `index`."""
        numbers = self._chat(session)[1]
        number = numbers[index if isinstance(index, int) else index[0]]
        found = session.steps[number].message
        return len(session.conversation.messages) if found is None else found  # None: it is being written

    def _complain(self, error: Exception) -> None:
        """Say what did not work."""
        gr.Warning(self._texts.busy if isinstance(error, BusyError) else str(error))

    def _approval(self, session: Session) -> View:
        call = session.approval
        text = self._texts.asks.format(name=call.name) if call else ""
        return {"approval": gr.update(visible=call is not None), "asks": text}

    def _observation(self, session: Session) -> View:
        waiting = [] if session.is_running else session.conversation.waiting
        if not waiting:
            return {"observation": gr.update(visible=False)}
        name = session.conversation.messages[waiting[len(session.observed)]].metadata
        label = self._texts.observe.format(name=name)
        return {"observation": gr.update(visible=True), "result": gr.update(label=label, value="")}

    def _files(self, session: Session) -> View:
        try:
            files = session.files()
            paths, skipped = [], []
            for file in files:
                if file.size > LARGEST_FILE:
                    skipped.append(file.path)
                    continue
                target = self._folder / session.conversation.id / str(int(file.changed * 1000)) / file.path
                if not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(session.fetch(file.path))
                paths.append(str(target))
        except ChatGLM3Error as error:
            gr.Warning(str(error))
            return {}
        if skipped:
            gr.Warning(self._texts.too_large.format(names=", ".join(skipped)))
        return {"files": gr.update(value=paths or None, visible=bool(paths))}

    def _status(self, conversation: Conversation) -> str:
        if not conversation.tokens:
            return self._texts.keys
        used = f"{conversation.tokens:,}"
        try:
            limit = self._users.host.api.model.context
        except ChatGLM3Error:
            limit = None
        if limit is None:
            return self._texts.context_unknown.format(used=used)
        percent = round(100 * conversation.tokens / limit)
        return self._texts.context.format(used=used, limit=f"{limit:,}", percent=percent)

    def _model_name(self) -> str:
        try:
            return self._users.host.api.model.name
        except ChatGLM3Error:
            return "ChatGLM3"

    def _session(self, id: str, request: gr.Request) -> tuple[str, Session]:
        """Whose conversation it is, and the conversation; a new one where the page shows one not yet kept."""
        owner = _owner(request)
        return owner, self._users.session(owner, id) or self._users.new(owner)

    def _settings(self, owner: str) -> Settings:
        return self._users.store.settings(owner)


_EMPTY = {"text": "", "files": []}


def settings_values(settings: Settings, offered: Toolbox) -> list[Any]:
    """Settings as the values of their inputs, in the order of the fields."""
    return [
        settings.system,
        settings.temperature,
        settings.top_p,
        settings.max_tokens,
        settings.repetition_penalty,
        settings.seed,
        [name for name in settings.tools if name in offered],
        settings.definitions,
        "\n".join(settings.mcp),
    ]


def _owner(request: gr.Request) -> str:
    """Who asks: the name that was logged in with, or the browser's cookie."""
    if request.username:
        return f"user:{request.username}"
    cookie = dict(request.cookies or {}).get(COOKIE)
    return f"browser:{cookie}" if cookie else f"tab:{request.session_hash}"


def _text(value: Any) -> str:
    """What stands in an edited message, whatever form the chat gives it in."""
    if isinstance(value, list):
        return "\n".join(map(_text, value))
    if isinstance(value, Mapping):
        return str(value.get("text") or value.get("content") or "")
    return str(value)
