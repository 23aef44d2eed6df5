"""Conversations and settings in a small SQLite file, each under the person whom they belong to."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chatglm3.errors import ChatGLM3Error
from chatglm3.web.conversation import Conversation
from chatglm3.web.settings import Settings

_SCHEMA = """
CREATE TABLE IF NOT EXISTS conversations (
    owner TEXT NOT NULL, id TEXT NOT NULL, title TEXT NOT NULL, changed REAL NOT NULL, data TEXT NOT NULL,
    PRIMARY KEY (owner, id)
);
CREATE TABLE IF NOT EXISTS settings (owner TEXT PRIMARY KEY, data TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS secrets (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Entry:
    """A conversation in the list."""

    id: str
    title: str
    changed: float


class Store:
    """The file at `path`, made if it is not there; None: in memory. Threads may share one."""

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.Lock()
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch(mode=0o600)
            self._database = sqlite3.connect(path or ":memory:", check_same_thread=False)
            self._database.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise ChatGLM3Error(f"{path} cannot hold conversations ({error}); give another --data") from None

    def list(self, owner: str) -> list[Entry]:
        """Someone's conversations, the newest first."""
        query = "SELECT id, title, changed FROM conversations WHERE owner = ? ORDER BY changed DESC"
        with self._transaction() as database:
            return [Entry(*row) for row in database.execute(query, (owner,))]

    def load(self, owner: str, id: str) -> Conversation | None:
        """One of them; None if there is none."""
        query = "SELECT data FROM conversations WHERE owner = ? AND id = ?"
        with self._transaction() as database:
            row = database.execute(query, (owner, id)).fetchone()
        return Conversation.from_dict(json.loads(row[0])) if row else None

    def save(self, owner: str, conversation: Conversation) -> None:
        """Keep a conversation, over what was kept of it before."""
        data = json.dumps(conversation.to_dict(), ensure_ascii=False)
        row = (owner, conversation.id, conversation.title, conversation.changed, data)
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO conversations VALUES (?, ?, ?, ?, ?)", row)

    def delete(self, owner: str, id: str) -> None:
        """Forget a conversation."""
        with self._transaction() as database:
            database.execute("DELETE FROM conversations WHERE owner = ? AND id = ?", (owner, id))

    def settings(self, owner: str) -> Settings:
        """Someone's settings."""
        with self._transaction() as database:
            row = database.execute("SELECT data FROM settings WHERE owner = ?", (owner,)).fetchone()
        return Settings.from_dict(json.loads(row[0])) if row else Settings()

    def save_settings(self, owner: str, settings: Settings) -> None:
        """Keep someone's settings."""
        with self._transaction() as database:
            data = json.dumps(settings.to_dict(), ensure_ascii=False)
            database.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (owner, data))

    def secret(self, name: str) -> str:
        """A random text that stays the same for this file."""
        with self._transaction() as database:
            made = (name, secrets.token_urlsafe(24))
            database.execute("INSERT OR IGNORE INTO secrets VALUES (?, ?)", made)
            row = database.execute("SELECT value FROM secrets WHERE name = ?", (name,)).fetchone()
        return str(row[0])

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._lock, self._database:
                yield self._database
        except sqlite3.Error as error:
            raise ChatGLM3Error(f"the conversations cannot be read or kept: {error}") from None


def default_path() -> Path:
    """Where this system keeps the data of programs: `~/.local/share/chatglm3/web.sqlite` on Linux."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "chatglm3" / "web.sqlite"
