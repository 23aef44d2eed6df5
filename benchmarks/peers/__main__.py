"""Ours and its peers in one run, turn by turn: `python -m benchmarks.peers --shape small --quantize int4`.

Every engine holds the same network with the same random weights, in a process of its own, and computes while
the others wait. What counts are the ratios within a round; their medians are printed, line by line as they
come, and appended to a file (--out).

With --quantize int4: ours against llama.cpp (Q4_0, through llama-cpp-python) and OpenVINO (int4 in groups of
128), each from a file, which is written where it is missing (--files) and holds exactly the same weights.
Without: ours against transformers' `GlmForCausalLM`, both in --dtype.

Peers are installed apart, for they want versions of their own, and --python names their interpreter:

    python -m venv peers && peers/bin/pip install -r benchmarks/peers/requirements.txt
    python -m benchmarks.peers --shape 6b --quantize int4 --python peers/bin/python

A peer that is not there is named and left out. --minutes bounds the run: what is not measured by then is left
out, and what was measured stays. On a machine that is short of memory compare with one peer at a time.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.peers.client import ROOT
from benchmarks.peers.our_file import SHAPES
from benchmarks.peers.rounds import Rounds, Start
from benchmarks.peers.table import OURS, cells
from chatglm3.benchmark import measure_limits

FROM_FILES = ("llama.cpp", "openvino")
"""Peers that take int4 weights; transformers takes those that are not quantized."""


class Report:
    """Prints lines, and appends them to a file at once."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file

    def __call__(self, line: str) -> None:
        print(line, flush=True)
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")


def written(module: str, python: str, source: str, target: Path) -> bool:
    """Have `module` make the file or folder `target` from `source`, if it is not there. Whether it is now."""
    if target.exists():
        return True
    started, part = time.monotonic(), target.with_name(f"part-{target.name}")
    command = [python, "-m", f"benchmarks.peers.{module}", source, str(part)]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        print(f"{target} could not be written")
        return False
    part.rename(target)
    print(f"{target}: written in {time.monotonic() - started:.0f} s", flush=True)
    return True


def prepare(shape: str, files: Path, peers: list[str], python: str) -> dict[str, Start]:
    """The engines that start from files, ours first."""
    files.mkdir(parents=True, exist_ok=True)
    folder = files / f"{shape}-int4"
    if not written("our_file", sys.executable, shape, folder):
        sys.exit(1)
    engines = {OURS: Start(sys.executable, str(folder))}
    targets = {
        "llama.cpp": ("gguf_file", f"{shape}-q4_0.gguf"),
        "openvino": ("openvino_file", f"{shape}-openvino"),
    }
    for name in peers:
        module, target = targets[name]
        if written(module, python, str(folder), files / target):
            engines[name] = Start(python, str(files / target))
    return engines


def warm(path: Path) -> None:
    """Read a file or folder, so that the system has it in memory."""
    for file in [path] if path.is_file() else sorted(path.iterdir()):
        with file.open("rb", buffering=0) as stream:
            while stream.read(1 << 24):
                pass


def machine(threads: int) -> str:
    """Processor, system and limits, in a line."""
    info = Path("/proc/cpuinfo")
    models = (
        [line for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    processor = models[0].partition(":")[2].strip() if models else platform.machine()
    limits = measure_limits(torch.device("cpu"))
    return (
        f"{processor}, {threads} threads of {os.cpu_count()}, {platform.system()}; "
        f"{limits.bytes_per_second / 1e9:.1f} GB/s, {limits.operations_per_second / 1e9:.0f} GOP/s int8"
    )


def commit() -> str:
    """Of this checkout, if it is one."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "no checkout"


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shape", choices=list(SHAPES), default="small")
    parser.add_argument("--quantize", choices=["int4"], help="int4 weights, from files")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument(
        "--peers", help=f"which, with commas (transformers; with --quantize {','.join(FROM_FILES)})"
    )
    parser.add_argument(
        "--python", default=sys.executable, help="interpreter of the peers that start from files"
    )
    parser.add_argument("--files", type=Path, default=Path("runs/peers"), help="their folder (%(default)s)")
    parser.add_argument("--prepare", action="store_true", help="write the files that are missing, and stop")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt (%(default)s)")
    parser.add_argument("--contexts", type=numbers, default=[128, 1024, 4096], help="(128,1024,4096)")
    parser.add_argument("--streams", type=numbers, default=[4, 8, 16], help="(4,8,16)")
    parser.add_argument("--tokens", type=int, default=16, help="steps decoded each time (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each engine (%(default)s)")
    parser.add_argument(
        "--minutes", type=float, default=60, help="most time the measurements take (%(default)s)"
    )
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="of each engine (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/peers.md"), help="appended to (%(default)s)")
    args = parser.parse_args()
    possible = FROM_FILES if args.quantize else ("transformers",)
    peers = args.peers.split(",") if args.peers else list(possible)
    if unknown := set(peers) - set(possible):
        parser.error(f"--peers {','.join(sorted(unknown))}: here there are {', '.join(possible)}")

    files = args.files.absolute()
    if args.quantize:
        engines = prepare(args.shape, files, peers, args.python)
    else:
        engines = {name: Start(sys.executable, None) for name in (OURS, *peers)}
    if args.prepare:
        return
    for start in engines.values():
        if start.path:
            warm(Path(start.path))
    report = Report(args.out)
    report(f"\n## {args.shape}, {args.quantize or args.dtype}\n")
    report(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit()}; {machine(args.threads)}.\n")
    longest = max(args.prompt, *args.contexts) + args.tokens + 1
    config = replace(SHAPES[args.shape], max_seq_len=max(SHAPES[args.shape].max_seq_len, longest))
    with Rounds(
        engines, config, dtype=args.dtype, threads=args.threads, rounds=args.rounds, tokens=args.tokens,
        seconds=60 * args.minutes, say=report,
    ) as rounds:  # fmt: skip
        rounds.load()
        for cell in cells(args.prompt, args.contexts, args.streams):
            rounds.measure(cell)
        rounds.memory()


if __name__ == "__main__":
    main()
