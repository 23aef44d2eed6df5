"""Compile the native kernels: `python chatglm3/kernels/build.py`, or as part of the package's build.

The compiler is $CXX, or the first of c++, g++ and clang++. Each level of instructions is a source file
compiled with its own flags; the library chooses among them when it is loaded, so it runs on other processors
than the one it was built on. The result is a plain C library beside this file, for any Python.

This file is run by the package's build, before anything is installed: it uses the standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SOURCES = FOLDER / "src"
LIBRARY = FOLDER / "libchatglm3.so"

_FLAGS = [
    *("-std=c++20", "-O3", "-g0", "-fPIC", "-fvisibility=hidden", "-pthread"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"),
    # GCC 12 takes the undefined lanes of its own intrinsics for mistakes.
    *("-Wall", "-Wextra", "-Wno-uninitialized", "-Wno-maybe-uninitialized"),
]
_AVX2 = ["-mavx2", "-mfma", "-mf16c"]
_AVX512 = [*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512"]
_LEVELS = {  # from the fewest instructions to the most
    "level_avx2.cpp": _AVX2,
    "level_avx512.cpp": _AVX512,
    "level_avx512vnni.cpp": [*_AVX512, "-mavx512vnni"],
}
_SANITIZE = [
    "-O1",
    "-g",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined",
    # What the address checks find as well; without them compiling takes a fraction of the time.
    "-fno-sanitize=null,object-size,pointer-overflow",
    "-fno-sanitize-recover=all",
]


class CannotBuildError(Exception):
    """There is no compiler, or none for this processor; the message says which."""


def compiler() -> list[str]:
    """The command that compiles C++. Raises CannotBuildError where there is none."""
    if chosen := os.environ.get("CXX"):
        return shlex.split(chosen)
    for name in ("c++", "g++", "clang++"):
        if path := shutil.which(name):
            return [path]
    raise CannotBuildError("no C++ compiler was found (c++, g++, clang++, or $CXX)")


def fingerprint() -> str:
    """Of all sources: a library with another one was built from other sources."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        if path.suffix in (".h", ".cpp"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def link_order() -> list[Path]:
    """The files to compile, those that need the fewest instructions first.

    Where several objects hold the same inline function (of the standard library, say), the linker keeps the
    first one's; so every processor that gets to it can run it.
    """
    levels = list(_LEVELS)
    names = sorted(path.name for path in SOURCES.glob("*.cpp") if path.name not in levels)
    return [SOURCES / name for name in (*names, *levels)]


def build(target: Path = LIBRARY, *, sanitize: bool = False) -> Path:
    """Compile and link into `target`. Raises CannotBuildError; the compiler's own words go to stderr."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        raise CannotBuildError(f"the kernels are written for x86-64, and this is {platform.machine()}")
    if sys.platform == "win32":
        raise CannotBuildError("the kernels are built on Linux and macOS only")
    command = compiler()
    common = [*_FLAGS, *(_SANITIZE if sanitize else []), f'-DCHATGLM3_SOURCES="{fingerprint()}"']
    with tempfile.TemporaryDirectory(prefix="chatglm3-build-") as folder:

        def compile_one(source: Path) -> str:
            out = Path(folder) / f"{source.stem}.o"
            _run([*command, *common, *_LEVELS.get(source.name, []), "-c", str(source), "-o", str(out)])
            return str(out)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            # The levels take longest, so they start first.
            objects = list(pool.map(compile_one, reversed(link_order())))[::-1]
        linked = Path(folder) / target.name
        _run([*command, "-shared", "-pthread", *(_SANITIZE if sanitize else []), *objects, "-o", str(linked)])
        # In one step: a process that runs the old library keeps it.
        staged = target.with_suffix(f".{os.getpid()}.tmp")
        shutil.copy(linked, staged)
        staged.replace(target)
    return target


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotBuildError(f"{command[0]} cannot be run ({error.strerror})") from None
    sys.stderr.write(done.stderr)
    if done.returncode:
        raise CannotBuildError(f"{command[0]} failed; its messages are above")


def main() -> None:
    """Build from the command line."""
    parser = argparse.ArgumentParser(description="Compile the native kernels.")
    parser.add_argument("--sanitize", action="store_true", help="with address and undefined-behaviour checks")
    parser.add_argument("--out", type=Path, default=LIBRARY, help="the library to write")
    args = parser.parse_args()
    try:
        print(build(args.out, sanitize=args.sanitize))
    except CannotBuildError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
