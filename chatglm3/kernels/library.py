"""The native library: finding it, choosing a level of instructions, and its functions.

`$CHATGLM3_KERNELS` chooses by hand: `avx512vnni`, `avx512`, `avx2`, or `off` for PyTorch alone.
`$CHATGLM3_LIBRARY` names another build of the library, as the sanitizers need one.
"""

from __future__ import annotations

import ctypes
import functools
import os
from ctypes import POINTER, c_bool, c_char_p, c_double, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any

from chatglm3.errors import InvalidParameterError
from chatglm3.kernels import build
from chatglm3.kernels.structures import Batch, Cache, Matrix, NetworkWeights

LEVELS = ("avx512vnni", "avx512", "avx2")
"""Levels of instructions, the best first."""

_FUNCTIONS: dict[str, tuple[list[Any], Any]] = {  # name: (arguments, result)
    "sources": ([], c_char_p),
    "level": ([c_char_p], c_void_p),
    "level_name": ([c_void_p], c_char_p),
    "workspace": ([c_void_p], c_void_p),
    "workspace_free": ([c_void_p], None),
    "forward": (
        [c_void_p, POINTER(NetworkWeights), POINTER(Cache), POINTER(Batch), c_int32, c_void_p],
        c_bool,
    ),
    "multiply": ([c_void_p, POINTER(Matrix), c_void_p, c_int64, c_int32, c_void_p], c_bool),
    "pack": ([c_void_p, POINTER(Matrix), c_void_p, c_void_p, c_int32], None),
    "unpack": ([c_void_p, POINTER(Matrix), c_void_p, c_void_p, c_int32], None),
    "read_rate": ([c_void_p, c_void_p, c_int64, c_int32], c_double),
    "dot_rate": ([c_void_p, c_int64, c_int32], c_double),
}


class Native:
    """The library's functions at one level. Each attribute is `chatglm3_<name>` of `src/api.cpp`."""

    def __init__(self, library: ctypes.CDLL, level: str) -> None:
        for name, (arguments, result) in _FUNCTIONS.items():
            function = library[f"chatglm3_{name}"]
            function.argtypes, function.restype = arguments, result
            setattr(self, name, function)
        self.kernels: int | None = self.level(level.encode())

    def __getattr__(self, name: str) -> Any:  # the functions are set above; this is for the type checker
        raise AttributeError(name)

    @property
    def name(self) -> str:
        """Of the level."""
        name: bytes = self.level_name(self.kernels)
        return name.decode()


@dataclass(frozen=True)
class Choice:
    """Which kernels run, and why."""

    native: Native | None
    reason: str
    """Why PyTorch runs instead; empty where native kernels do."""


@functools.cache
def choose(wanted: str | None = None) -> Choice:
    """The native kernels of the wanted level, of $CHATGLM3_KERNELS, or the best that this machine has.

    Raises InvalidParameterError for a level that does not exist or that this processor lacks, and where
    $CHATGLM3_LIBRARY names no library of these sources.
    """
    wanted = wanted or os.environ.get("CHATGLM3_KERNELS", "")
    if wanted == "off":
        return Choice(None, "CHATGLM3_KERNELS is off")
    if wanted and wanted not in LEVELS:
        raise InvalidParameterError(f"CHATGLM3_KERNELS is {wanted!r}; it can be {', '.join(LEVELS)} or off")
    named = os.environ.get("CHATGLM3_LIBRARY")
    if not named and not build.LIBRARY.exists():
        return Choice(None, "the package was installed without them (no C++ compiler?)")
    library, reason = _load(named or str(build.LIBRARY))
    if library is None:
        if named:
            raise InvalidParameterError(f"CHATGLM3_LIBRARY is {named!r}, whose kernels do not run: {reason}")
        return Choice(None, reason)
    native = Native(library, wanted)
    if native.kernels is None:
        if wanted:
            raise InvalidParameterError(f"CHATGLM3_KERNELS is {wanted!r}, which this processor does not have")
        return Choice(None, "this processor has no AVX2")
    return Choice(native, "")


def _load(path: str) -> tuple[ctypes.CDLL | None, str]:
    """The library, or why there is none."""
    try:
        library = ctypes.CDLL(path)
        sources = library.chatglm3_sources
    except (OSError, AttributeError) as error:
        return None, f"they cannot be loaded ({error})"
    sources.restype = c_char_p
    if build.SOURCES.is_dir() and sources().decode() != build.fingerprint():
        return None, f"they were built from other sources; run python {build.__file__}"
    return library, ""
