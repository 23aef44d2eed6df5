"""The outputs of one cell: Jupyter's messages as text and pictures, in order, and no more than allowed."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any

from .limits import Limits

_ERROR_CHARS = 6000
_PNG = b"\x89PNG\r\n\x1a\n"

Send = Callable[[str, str, bytes], None]
"""Kind, text and data of an output: stdout, stderr, result, image, error or notice."""


class Cell:
    """Takes what a kernel says about one cell, and sends on what a reader can use."""

    def __init__(self, id: str, limits: Limits, send: Send) -> None:
        self.id = id
        self._limits = limits
        self._send = send
        self._chars = limits.output_chars
        self._images = limits.images
        self._errors = 0
        self._noted: set[str] = set()

    def take(self, kind: str, content: dict[str, Any]) -> bool:
        """Take one message; returns whether the kernel is done with the cell."""
        match kind:
            case "stream":
                name = "stderr" if content.get("name") == "stderr" else "stdout"
                self._text(name, content.get("text"))
            case "execute_result" | "display_data" | "update_display_data":
                self._display(content.get("data"))
            case "error":
                self._error(content)
            case "status":
                return content.get("execution_state") == "idle"
        return False

    def note(self, text: str) -> None:
        """A remark of the interpreter's own, once."""
        if text not in self._noted:
            self._noted.add(text)
            self._send("notice", text, b"")

    def _text(self, kind: str, text: Any) -> None:
        if not isinstance(text, str) or not text:
            return
        if self._chars:
            self._send(kind, text[: self._chars], b"")
        if len(text) > self._chars:
            self.note(f"the output was cut after {self._limits.output_chars} characters")
        self._chars = max(0, self._chars - len(text))

    def _display(self, data: Any) -> None:
        if not isinstance(data, dict):
            return
        if isinstance(encoded := data.get("image/png"), str):
            self._image(encoded)
        else:
            self._text("result", data.get("text/plain"))

    def _image(self, encoded: str) -> None:
        if not self._images:
            self.note(f"only the first {self._limits.images} images are shown")
            return
        if len(encoded) > self._limits.image_bytes * 4 // 3 + 4:
            self.note(f"an image of more than {self._limits.image_bytes >> 20} MiB was left out")
            return
        try:
            data = base64.b64decode(encoded)
        except (binascii.Error, ValueError):
            return
        if data.startswith(_PNG):
            self._images -= 1
            self._send("image", "", data)

    def _error(self, content: dict[str, Any]) -> None:
        """The traceback; of a long one, as of a recursion without end, both ends."""
        if self._errors:
            return
        self._errors += 1
        lines = content.get("traceback")
        text = "\n".join(str(line) for line in lines) if isinstance(lines, list) else ""
        text = text or f"{content.get('ename')}: {content.get('evalue')}"
        if len(text) > _ERROR_CHARS:
            text = f"{text[: _ERROR_CHARS // 2]}\n[...]\n{text[-_ERROR_CHARS // 2 :]}"
        self._send("error", text, b"")
