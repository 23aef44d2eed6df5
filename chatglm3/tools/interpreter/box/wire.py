"""Frames between the program and the supervisor: a JSON header and bytes, over a stream socket.

Nothing of a frame is believed before its size is checked, since the other side may have been taken over.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from typing import Any

_SIZES = struct.Struct(">II")
MAX_HEADER = 1 << 20
MAX_PAYLOAD = 64 << 20


class WireError(Exception):
    """The other side is gone, is late, or does not keep to the format."""


class Wire:
    """One end of the connection. One thread may read while another one writes."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._writer = connection.dup()  # a timeout belongs to the Python object
        self._writing = threading.Lock()

    def fileno(self) -> int:
        """For select()."""
        return self._socket.fileno()

    def send(self, header: dict[str, Any], payload: bytes = b"", *, deadline: float | None = None) -> None:
        """Send one frame. deadline: as of time.monotonic(). Raises WireError."""
        text = json.dumps(header).encode()
        try:
            with self._writing:
                self._writer.settimeout(_remaining(deadline))
                self._writer.sendall(_SIZES.pack(len(text), len(payload)) + text + payload)
        except OSError as error:
            raise WireError(f"cannot send: {error}") from None

    def receive(self, *, deadline: float | None = None) -> tuple[dict[str, Any], bytes]:
        """Wait for one frame. Raises WireError."""
        header_size, payload_size = _SIZES.unpack(self._read(_SIZES.size, deadline))
        if header_size > MAX_HEADER or payload_size > MAX_PAYLOAD:
            raise WireError(f"a frame of {header_size} + {payload_size} bytes")
        text = self._read(header_size, deadline)
        payload = self._read(payload_size, deadline)
        try:
            header = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise WireError(f"a damaged frame: {error}") from None
        if not isinstance(header, dict):
            raise WireError("a frame without a header")
        return header, payload

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
        self._writer.close()

    def _read(self, size: int, deadline: float | None) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                self._socket.settimeout(_remaining(deadline))
                piece = self._socket.recv(min(size - len(data), 1 << 20))
            except OSError as error:
                raise WireError(f"cannot receive: {error}") from None
            if not piece:
                raise WireError("the other side has hung up")
            data += piece
        return bytes(data)


def _remaining(deadline: float | None) -> float | None:
    """Seconds left, for settimeout(); at least a little, since 0 would mean not to block."""
    return None if deadline is None else max(deadline - time.monotonic(), 0.001)
