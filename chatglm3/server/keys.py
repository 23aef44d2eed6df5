"""API keys: who may ask, and how much a minute."""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import time
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatglm3.errors import InvalidParameterError
from chatglm3.server.errors import ApiError


@dataclass(frozen=True)
class ApiKey:
    """A key, and what it may spend in a minute; None: as much as it likes."""

    text: str
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[!-~]+", self.text):
            raise InvalidParameterError(
                "an API key is printable ASCII without spaces, and one of those given is not"
            )
        for name in ("requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidParameterError(f"{name} of an API key is {value}, but must be at least 1")


def read_keys(file: Path, requests_per_minute: int | None, tokens_per_minute: int | None) -> list[ApiKey]:
    """The keys in a file: one a line, with limits of its own as in `KEY requests=60 tokens=20000  # comment`.

    The limits given are for keys without their own. Raises OSError, and InvalidParameterError for a line that
    is no key, with its number and not its text.
    """
    keys = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        limits = {"requests": requests_per_minute, "tokens": tokens_per_minute}
        for word in words[1:]:
            if not (match := re.fullmatch("(requests|tokens)=([0-9]{1,9})", word)):
                raise InvalidParameterError(
                    f"{file}, line {number}: behind a key there can be requests=N and tokens=N, "
                    "what it may spend in a minute, and nothing else"
                )
            limits[match[1]] = int(match[2])
        keys.append(ApiKey(words[0], limits["requests"], limits["tokens"]))
    if not keys:
        raise InvalidParameterError(f"{file}: there is no key in it")
    return keys


class Keyring:
    """The keys of a server, and what each has left."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._allowances = [(_digest(key.text), Allowance(key)) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._allowances)

    def find(self, text: str) -> Allowance | None:
        """What a key has left; None for no key of ours.

        Takes the same time whichever key it is, and wherever it differs from one.
        """
        digest = _digest(text)
        found = [left for known, left in self._allowances if hmac.compare_digest(digest, known)]
        return found[0] if found else None


class Allowance:
    """What one key has left of its requests and tokens."""

    def __init__(self, key: ApiKey, clock: Callable[[], float] = time.monotonic) -> None:
        self._requests = _Bucket(key.requests_per_minute, clock)
        self._tokens = _Bucket(key.tokens_per_minute, clock)

    def admit(self) -> None:
        """Take one request. Raises ApiError with 429 if none is left, or no token."""
        for unit, bucket in (("requests", self._requests), ("tokens", self._tokens)):
            seconds = math.ceil(bucket.wait())
            if seconds > 0:
                raise ApiError(
                    429,
                    f"this key may spend {bucket.per_minute} {unit} a minute, and has; "
                    f"try again in {seconds} s",
                    code="rate_limit_exceeded",
                    headers={"Retry-After": str(seconds)},
                )
        self._requests.take(1)

    def spend(self, tokens: int) -> None:
        """Take tokens; those that are not there are owed."""
        self._tokens.take(tokens)


def spend(scope: MutableMapping[str, Any], tokens: int) -> None:
    """Charge tokens to the key with which an ASGI request came, if it came with one."""
    allowance: Allowance | None = scope["state"].get("allowance")
    if allowance is not None:
        allowance.spend(tokens)


class _Bucket:
    """So many units a minute: full at first, and refilled evenly."""

    def __init__(self, per_minute: int | None, clock: Callable[[], float]) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute or 0)
        self._as_of = clock()

    def wait(self) -> float:
        """Seconds until there is a unit."""
        if self.per_minute is None:
            return 0.0
        now = self._clock()
        self._level = min(self._level + (now - self._as_of) * self.per_minute / 60, self.per_minute)
        self._as_of = now
        return max(1 - self._level, 0) * 60 / self.per_minute

    def take(self, units: int) -> None:
        """Take units, also those that are not there yet."""
        self._level -= units


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
