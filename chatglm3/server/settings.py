"""What an operator decides about a server."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import version

from chatglm3.errors import InvalidParameterError
from chatglm3.server.keys import ApiKey

VERSION = version("chatglm3")
MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """The limits of a server, its keys, and the names of its model."""

    model_names: tuple[str, ...] = ("nano",)
    """What clients may give as `model`; the first stands for those that give none."""
    api_keys: tuple[ApiKey, ...] = ()
    """Keys that open every route but /health; without any, all routes are open."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call the server from a browser, such as https://chat.example.org; `*`: all."""
    max_queue: int = 256
    """Answers that may wait for their first token; beyond, requests get 429."""
    max_queue_tokens: int = 131_072
    """Tokens of their prompts."""
    max_body_bytes: int = 4 * MIB
    max_header_bytes: int = 16 * 1024
    body_timeout: float = 30.0
    """Seconds within which a request must have been sent."""
    request_timeout: float = 600.0
    """Seconds within which it must be answered, the queue included."""
    drain_timeout: float = 30.0
    """Seconds that running requests have left after SIGTERM."""
    log_prompts: bool = False
    """Write what clients ask into the log. Off: no text of a conversation is ever logged."""

    def __post_init__(self) -> None:
        if not self.model_names:
            raise InvalidParameterError("a server needs a name for its model; give at least one")
        if len({key.text for key in self.api_keys}) < len(self.api_keys):
            raise InvalidParameterError("an API key is given twice, with different limits; give it once")
        for origin in self.cors_origins:
            if not re.fullmatch(r"\*|https?://[^/?#\s]+", origin):
                raise InvalidParameterError(
                    f"{origin!r} is no origin; give scheme and host as in https://chat.example.org, or *"
                )
        for name in ("max_queue", "max_queue_tokens", "max_body_bytes", "max_header_bytes"):
            if getattr(self, name) < 1:
                raise InvalidParameterError(f"{name} is {getattr(self, name)}, but must be at least 1")
        for name in ("body_timeout", "request_timeout", "drain_timeout"):
            if not getattr(self, name) > 0:
                raise InvalidParameterError(f"{name} is {getattr(self, name)}, but must be above 0 seconds")
