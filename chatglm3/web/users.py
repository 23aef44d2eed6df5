"""Everybody's conversations: which are being held, and which only kept."""

from __future__ import annotations

import logging
import threading
import time
from functools import partial

from chatglm3.web.conversation import Conversation, Mode
from chatglm3.web.session import Host, Session
from chatglm3.web.store import Entry, Store

log = logging.getLogger(__name__)

IDLE_SECONDS = 900.0
"""After which a conversation's kernel is ended, with its files; the conversation itself is kept."""


class Users:
    """Sessions by owner and conversation. An owner is a name that the page has checked, or a random text.

    idle_seconds: after which a session is closed in which nothing happens.
    """

    def __init__(self, host: Host, store: Store, *, idle_seconds: float = IDLE_SECONDS) -> None:
        self.host = host
        self.store = store
        self._idle_seconds = idle_seconds
        self._sessions: dict[tuple[str, str], Session] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        threading.Thread(target=self._reap, name="chatglm3-reaper", daemon=True).start()

    def list(self, owner: str) -> list[Entry]:
        """Someone's conversations, the newest first."""
        return self.store.list(owner)

    def new(self, owner: str, mode: Mode = "chat") -> Session:
        """A new conversation; it is kept from its first question on."""
        return self._open(owner, Conversation(mode=mode))

    def add(self, owner: str, conversation: Conversation) -> Session:
        """An imported conversation."""
        self.store.save(owner, conversation)
        return self._open(owner, conversation)

    def session(self, owner: str, id: str) -> Session | None:
        """A conversation of someone's, to go on with; None if there is none of this id."""
        with self._lock:
            if found := self._sessions.get((owner, id)):
                found.used = time.monotonic()
                return found
        kept = self.store.load(owner, id)
        return self._open(owner, kept) if kept else None

    def delete(self, owner: str, id: str) -> None:
        """Forget a conversation and end its kernel."""
        with self._lock:
            session = self._sessions.pop((owner, id), None)
        if session is not None:
            session.forget()
        self.store.delete(owner, id)

    def close(self) -> None:
        """End everything."""
        self._closed.set()
        with self._lock:
            sessions = list(self._sessions.values())
            self._sessions.clear()
        for session in sessions:
            session.close()

    def close_idle(self) -> None:
        """End what nobody has used for a time."""
        limit = time.monotonic() - self._idle_seconds
        with self._lock:
            idle = {k: s for k, s in self._sessions.items() if s.used < limit and not s.is_running}
            for key in idle:
                del self._sessions[key]
        for session in idle.values():
            session.close()

    def _open(self, owner: str, conversation: Conversation) -> Session:
        with self._lock:
            made = Session(self.host, conversation, partial(self.store.save, owner))
            return self._sessions.setdefault((owner, conversation.id), made)

    def _reap(self) -> None:
        while not self._closed.wait(min(self._idle_seconds / 4, 30.0)):
            try:
                self.close_idle()
            except Exception:
                log.exception("idle sessions could not be closed")
