"""The page in Streamlit, which is drawn from top to bottom after every click."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import streamlit as st

from chatglm3.errors import ChatGLM3Error
from chatglm3.web import export
from chatglm3.web.browser import COOKIE
from chatglm3.web.conversation import MODES
from chatglm3.web.session import Session
from chatglm3.web.streamlit_actions import Actions
from chatglm3.web.streamlit_drawing import draw_steps, plain
from chatglm3.web.texts import LANGUAGES, Texts
from chatglm3.web.users import Users

FRAME_SECONDS = 0.2
"""Between two drawings of an answer that is being made."""
LARGEST_UPLOAD_MB = 100


@dataclass(frozen=True)
class Words:
    """What only this page says."""

    stop: str
    again: str
    edit: str
    name: str
    password: str
    log_in: str
    wrong: str
    gone: str


WORDS = {
    "en": Words(
        stop="Stop",
        again="Regenerate",
        edit="Edit the question",
        name="Name",
        password="Password",
        log_in="Log in",
        wrong="This name and password do not belong together.",
        gone="This conversation does not exist any more.",
    ),
    "zh": Words(
        stop="停止",
        again="重新生成",
        edit="修改问题",
        name="用户名",
        password="密码",
        log_in="登录",
        wrong="用户名或密码错误。",
        gone="这个对话已不存在。",
    ),
}


def draw(users: Users, accounts: Mapping[str, str]) -> None:
    """Draw the page for whoever looks at it; accounts: passwords by name, if one is needed."""
    st.set_page_config(page_title="ChatGLM3")
    texts = LANGUAGES[_language()]
    if accounts and "account" not in st.session_state:
        _log_in(accounts, WORDS[texts.code])
        return
    owner = _owner()
    page = Page(users, owner, texts, WORDS[texts.code], Actions(users, owner, texts))
    session = page.session()
    with st.sidebar:
        page.draw_conversations(session)
        page.draw_settings()
    page.draw_conversation(session)


def _language() -> str:
    """As in the address, or as this person has chosen before, or as the browser speaks."""
    for wanted in (st.query_params.get("lang"), st.context.cookies.get("chatglm3_language")):
        if wanted in LANGUAGES:
            return wanted
    return "zh" if (st.context.locale or "").lower().startswith("zh") else "en"


def _owner() -> str:
    """Who looks at the page: the name that was logged in with, or the browser's cookie."""
    if name := st.session_state.get("account"):
        return f"user:{name}"
    if cookie := st.context.cookies.get(COOKIE):
        return f"browser:{cookie}"
    return f"tab:{st.session_state.setdefault('tab', secrets.token_urlsafe(32))}"


def _log_in(accounts: Mapping[str, str], words: Words) -> None:
    def check() -> None:
        name, password = st.session_state["name"], st.session_state["password"]
        known = accounts.get(name, "")
        if known and secrets.compare_digest(known.encode(), password.encode()):
            st.session_state["account"] = name
        else:
            st.error(words.wrong)

    with st.form("log-in"):
        st.text_input(words.name, key="name", autocomplete="username")
        st.text_input(words.password, type="password", key="password", autocomplete="current-password")
        st.form_submit_button(words.log_in, type="primary", on_click=check)


@dataclass(frozen=True)
class Page:
    """What one person sees, in one language; `act` is what they do."""

    users: Users
    owner: str
    texts: Texts
    words: Words
    act: Actions

    def session(self) -> Session:
        """The conversation on the page: that of before, that in the address, the newest, or a new one."""
        state, address = st.session_state, st.query_params.get("c")
        id = state.get("conversation") or address
        session = self.users.session(self.owner, id) if id else None
        if session is None and id and id == address:
            state["notice"] = self.words.gone
        elif session is None and not id and (kept := self.users.list(self.owner)):
            session = self.users.session(self.owner, kept[0].id)
        session = session or self.users.new(self.owner)
        state["conversation"] = session.conversation.id
        if session.conversation.messages:
            st.query_params["c"] = session.conversation.id
        elif address:
            del st.query_params["c"]
        return session

    def draw_conversations(self, session: Session) -> None:
        """All conversations, and what can be done with the one on the page."""
        texts, conversation = self.texts, session.conversation
        st.button(
            texts.new,
            key="new",
            type="primary",
            icon=":material/add:",
            on_click=self.act.new,
            width="stretch",
        )
        for entry in self.users.list(self.owner):
            st.button(
                plain(entry.title) or "…",
                key=f"open-{entry.id}",
                type="secondary" if entry.id == conversation.id else "tertiary",
                on_click=self.act.open,
                args=(entry.id,),
                width="stretch",
            )
        with st.container(horizontal=True):
            name = re.sub(r"[^\w-]+", "-", conversation.title).strip("-") or "conversation"
            for label, suffix, write in (
                (texts.export_json, "json", export.to_json),
                (texts.export_markdown, "md", export.to_markdown),
            ):
                st.download_button(
                    label,
                    partial(write, conversation),
                    f"{name}.{suffix}",
                    key=f"export-{suffix}",
                    on_click="ignore",
                    disabled=not conversation.messages,
                )
            with st.popover(texts.delete, disabled=not conversation.messages):
                st.button(texts.delete_sure, key="delete", on_click=self.act.delete, args=(conversation.id,))
        with st.expander(texts.import_file, icon=":material/upload:"):
            key = f"import-{st.session_state.setdefault('imports', 0)}"  # a new one is empty again
            st.file_uploader(
                texts.import_file,
                ["json", "md"],
                key=key,
                label_visibility="collapsed",
                on_change=self.act.import_file,
                args=(key,),
            )

    def draw_settings(self) -> None:
        """Settings, kept as soon as they are changed."""
        texts, settings, host = self.texts, self.users.store.settings(self.owner), self.users.host
        keep: dict[str, Any] = {"on_change": self.act.keep_settings}
        with st.expander(texts.settings, icon=":material/tune:"):
            st.text_area(texts.system, settings.system, key="system", help=texts.system_info, **keep)
            st.slider(texts.temperature, 0.0, 2.0, settings.temperature, 0.05, key="temperature", **keep)
            st.slider(texts.top_p, 0.05, 1.0, settings.top_p, 0.05, key="top_p", **keep)
            st.number_input(
                texts.max_tokens,
                0,
                value=settings.max_tokens,
                key="max_tokens",
                help=texts.max_tokens_info,
                **keep,
            )
            st.slider(
                texts.repetition_penalty,
                0.5,
                2.0,
                settings.repetition_penalty,
                0.05,
                key="repetition_penalty",
                **keep,
            )
            st.number_input(texts.seed, 0, value=settings.seed, key="seed", help=texts.seed_info, **keep)
        with st.expander(texts.tools, icon=":material/build:"):
            names = [tool.name for tool in host.tools]
            ticked = [name for name in settings.tools if name in names]
            st.multiselect(texts.tools, names, ticked, key="tools", help=texts.tools_info, **keep)
            st.text_area(
                texts.definitions,
                settings.definitions,
                key="definitions",
                help=texts.definitions_info,
                **keep,
            )
            if host.own_mcp:
                st.text_area(texts.mcp, "\n".join(settings.mcp), key="mcp", help=texts.mcp_info, **keep)
        other = next(code for code in LANGUAGES if code != texts.code)
        st.button(texts.other, key="language", type="tertiary", on_click=self.act.speak, args=(other,))

    def draw_conversation(self, session: Session) -> None:
        """The conversation on the page, and what can be said next."""
        texts, conversation, state = self.texts, session.conversation, st.session_state
        is_running = session.is_running  # asked before the steps: an answer may end at any time
        state["mode"] = conversation.mode
        st.segmented_control(
            texts.mode,
            MODES,
            format_func=lambda mode: texts.modes[mode],
            required=True,
            key="mode",
            label_visibility="collapsed",
            on_change=self.act.choose_mode,
            args=(session,),
            disabled=is_running,
        )
        steps = conversation.steps
        draw_steps(steps, texts)
        if is_running:
            st.fragment(self._draw_running, run_every=FRAME_SECONDS)(conversation.id, len(steps))
        else:
            if steps:
                self._draw_end(session)
            else:
                st.markdown(texts.greeting[conversation.mode].format(model=plain(self._model_name())))
            self._draw_files(session)
        if notice := state.pop("notice", None):
            st.error(notice, icon=":material/error:")
        st.chat_input(
            texts.placeholder,
            key="question",
            accept_file="multiple",
            max_upload_size=LARGEST_UPLOAD_MB,
            disabled=is_running,
            on_submit=self.act.send,
            args=(session,),
        )

    def _draw_running(self, id: str, drawn: int) -> None:
        """The steps from number `drawn` on, a few times a second, until there are no more to come."""
        session = self.users.session(self.owner, id)  # which also says that somebody is still looking
        if session is None or not session.is_running:
            st.rerun()
        if steps := session.steps[drawn:]:
            draw_steps(steps, self.texts)
        else:
            st.chat_message("assistant").markdown(f":shimmer[{self.texts.writing}]")
        if session.approval is not None:
            st.warning(self.texts.asks.format(name=plain(session.approval.name)))
            with st.container(horizontal=True):
                st.button(
                    self.texts.allow, key="allow", type="primary", on_click=session.approve, args=(True,)
                )
                always = partial(session.approve, True, always=True)
                st.button(self.texts.always, key="always", on_click=always)
                st.button(self.texts.refuse, key="refuse", on_click=session.approve, args=(False,))
        st.button(
            self.words.stop, key="stop", icon=":material/stop_circle:", shortcut="Esc", on_click=session.stop
        )

    def _draw_end(self, session: Session) -> None:
        """What stands after the last answer."""
        texts, conversation = self.texts, session.conversation
        if session.problem is not None:
            st.error(texts.error.format(reason=plain(str(session.problem))), icon=":material/error:")
        if waiting := conversation.waiting:
            keys = [f"result-{conversation.id}-{number}" for number in waiting]
            with st.form("observe"):
                for key, number in zip(keys, waiting):
                    name = plain(conversation.messages[number].metadata)
                    st.text_area(texts.observe.format(name=name), key=key, help=texts.observe_info)
                st.form_submit_button(
                    texts.send, type="primary", on_click=self.act.observe, args=(session, keys)
                )
        with st.container(horizontal=True):
            again = partial(self.act.again, session)
            st.button(
                self.words.again, key="again", type="tertiary", icon=":material/refresh:", on_click=again
            )
            edit = partial(self.act.edit, session)
            st.button(self.words.edit, key="edit", type="tertiary", icon=":material/edit:", on_click=edit)
        if conversation.tokens:
            st.caption(self._context(conversation.tokens))

    def _draw_files(self, session: Session) -> None:
        """The files of the interpreter, to download."""
        try:
            files = session.files()
        except ChatGLM3Error as error:
            st.error(plain(str(error)))
            return
        if not files:
            return
        st.caption(self.texts.files)
        with st.container(horizontal=True):
            for file in files:
                st.download_button(
                    plain(file.path),
                    partial(session.fetch, file.path),
                    file.path.rpartition("/")[2],
                    key=f"file-{session.conversation.id}-{file.path}",
                    icon=":material/download:",
                    on_click="ignore",
                )

    def _context(self, tokens: int) -> str:
        try:
            limit = self.users.host.api.model.context
        except ChatGLM3Error:
            limit = None
        if limit is None:
            return self.texts.context_unknown.format(used=f"{tokens:,}")
        percent = round(100 * tokens / limit)
        return self.texts.context.format(used=f"{tokens:,}", limit=f"{limit:,}", percent=percent)

    def _model_name(self) -> str:
        try:
            return self.users.host.api.model.name
        except ChatGLM3Error:
            return "ChatGLM3"
