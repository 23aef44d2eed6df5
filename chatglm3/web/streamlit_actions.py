"""What clicks on the Streamlit page do, before it is drawn anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from chatglm3.errors import ChatGLM3Error, InvalidMessageError
from chatglm3.web import export
from chatglm3.web.session import BusyError, Progress, Session
from chatglm3.web.settings import Settings
from chatglm3.web.streamlit_drawing import plain
from chatglm3.web.streamlit_follow import follow
from chatglm3.web.texts import Texts
from chatglm3.web.users import Users

_INPUTS = [
    "system",
    "temperature",
    "top_p",
    "max_tokens",
    "repetition_penalty",
    "seed",
    "tools",
    "definitions",
]
"""Fields of the settings, and the keys of their inputs."""


@dataclass(frozen=True)
class Actions:
    """What one person does, in one language. `st.session_state` holds what their inputs say."""

    users: Users
    owner: str
    texts: Texts

    def send(self, session: Session) -> None:
        """Answer a question, and take the files that come with it; they are for the interpreter."""
        given = st.session_state["question"]
        try:
            if given.files:
                session.choose_mode("code")
            for file in given.files:
                session.upload(file.name, file.getvalue())
            if given.text.strip():
                follow(session, session.ask(given.text, self._settings))
        except ChatGLM3Error as error:
            self._complain(error)
            st.session_state["question"] = given.text  # to be sent again
            return
        if given.files and not given.text.strip():
            names = ", ".join(file.name for file in given.files)
            st.toast(self.texts.uploaded.format(names=plain(names)))

    def again(self, session: Session) -> None:
        """Answer the last question anew."""
        self._follow(session, session.again(self._settings))

    def observe(self, session: Session, keys: list[str]) -> None:
        """Go on with the results that a person gives in the tools' place."""
        results = [st.session_state[key] for key in keys]
        self._follow(session, session.observe(results, self._settings))

    def edit(self, session: Session) -> None:
        """Take the last question back into the input; what announced its files goes with the next one."""
        try:
            st.session_state["question"] = session.take_back(len(session.conversation.messages))
        except ChatGLM3Error as error:
            self._complain(error)

    def new(self) -> None:
        """Begin a conversation, in the mode of the one before."""
        self.open(self.users.new(self.owner, st.session_state["mode"]).conversation.id)

    def open(self, id: str) -> None:
        """Show a conversation."""
        st.session_state["conversation"] = id

    def delete(self, id: str) -> None:
        """Forget a conversation."""
        self.users.delete(self.owner, id)
        self.new()

    def import_file(self, key: str) -> None:
        """Show the conversation in the file that was given to the uploader `key`."""
        file = st.session_state[key]
        if file is None:
            return
        st.session_state["imports"] += 1
        try:
            text = file.getvalue().decode("utf-8-sig")
            self.open(self.users.add(self.owner, export.read(text)).conversation.id)
        except UnicodeDecodeError:
            self._complain(f"{file.name} is not text in UTF-8")
        except InvalidMessageError as error:
            self._complain(error)

    def choose_mode(self, session: Session) -> None:
        """Go on in another mode."""
        try:
            session.choose_mode(st.session_state["mode"])
        except ChatGLM3Error as error:
            self._complain(error)

    def keep_settings(self) -> None:
        """Keep what the settings' inputs hold."""
        state, old = st.session_state, self._settings
        changed: dict[str, Any] = {name: state[name] for name in _INPUTS}
        changed["tools"] = tuple(changed["tools"])
        if "mcp" in state:
            changed["mcp"] = tuple(line.strip() for line in state["mcp"].splitlines() if line.strip())
        settings = replace(old, **changed)
        try:
            _ = settings.sampling
        except ChatGLM3Error as error:
            self._complain(error)
        else:
            self.users.store.save_settings(self.owner, settings)

    def speak(self, language: str) -> None:
        """Go on in another language."""
        st.query_params["lang"] = language

    def _follow(self, session: Session, progress: Iterator[Progress]) -> None:
        try:
            follow(session, progress)
        except ChatGLM3Error as error:
            self._complain(error)

    @property
    def _settings(self) -> Settings:
        return self.users.store.settings(self.owner)

    def _complain(self, problem: Exception | str) -> None:
        """Say on the page, when it is drawn next, what did not work."""
        text = self.texts.busy if isinstance(problem, BusyError) else str(problem)
        st.session_state["notice"] = plain(text)
