"""What several commands share: the parser's manners, and the arguments that name a model and its sampling."""

from __future__ import annotations

import argparse
import difflib
import math
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from chatglm3.errors import InvalidMessageError, InvalidParameterError

if TYPE_CHECKING:
    from chatglm3.chat import ChatGLM3
    from chatglm3.engine import SamplingParams


class Parser(argparse.ArgumentParser):
    """An argument parser that answers a mistake with one line and, where it can, the word that was meant."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[Any, list[str]]:
        """Parse; an argument nobody declared is an error at the level that met it."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            word = unknown[0].split("=")[0]
            self.error(f"unknown argument {unknown[0]!r}{did_you_mean(word, self._option_string_actions)}")
        return namespace, []

    def error(self, message: str) -> NoReturn:
        """End the program with exit code 2."""
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the known word that is nearest, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def describe(error: Exception | str) -> str:
    """An error as one line."""
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(message.split())


def size(count: float) -> str:
    """A number of bytes, as people say it: `12.5 GB`."""
    if count < 1e3:
        return f"{count:.0f} bytes"
    exponent = min(int(math.log10(count)) // 3, 3)
    return f"{count / 1000**exponent:.1f} {' kMG'[exponent]}B"


class Parameter(NamedTuple):
    """A sampling parameter that a person sets by name, as a flag or with /set."""

    kind: type
    help: str


SAMPLING = {
    "temperature": Parameter(float, "how freely to sample; 0 always takes the likeliest token (0.8)"),
    "top_p": Parameter(float, "sample from the likeliest tokens that hold this probability (0.8)"),
    "top_k": Parameter(int, "sample from this many likeliest tokens; 0 is no limit (0)"),
    "min_p": Parameter(float, "leave out tokens below this share of the likeliest one (0)"),
    "repetition_penalty": Parameter(float, "above 1, tokens seen before become less likely (1)"),
    "presence_penalty": Parameter(float, "taken from the logit of each token already written (0)"),
    "frequency_penalty": Parameter(float, "the same, times how often it was written (0)"),
    "seed": Parameter(int, "the same seed gives the same answer"),
    "max_tokens": Parameter(int, "stop an answer after this many tokens (the context's end)"),
}


def parse_parameter(name: str, text: str) -> float | int | None:
    """A sampling parameter's value as a person types it; `none` takes a seed or a limit away."""
    if name not in SAMPLING:
        near, known = did_you_mean(name, SAMPLING), ", ".join(SAMPLING)
        raise InvalidParameterError(f"there is no sampling parameter {name!r}{near}; there are {known}")
    kind = SAMPLING[name].kind
    if text.lower() == "none" and name in ("seed", "max_tokens"):
        return None
    try:
        return kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise InvalidParameterError(f"{name} is {wanted}, not {text!r}") from None


def add_model(parser: argparse.ArgumentParser, *, default: str | None) -> None:
    """The model and how to hold it: MODEL, --revision, --device, --dtype, --quantize."""
    described = "'nano' (embedded), a folder, or a Hugging Face or ModelScope id"
    if default is None:
        parser.add_argument("model", metavar="MODEL", help=described)
    else:
        parser.add_argument(
            "model", metavar="MODEL", nargs="?", default=default, help=f"{described}; default: {default}"
        )
    group = parser.add_argument_group("model")
    group.add_argument("--revision", help="branch, tag or commit of a model on a hub")
    group.add_argument("--device", help="cpu, cuda, cuda:1, mps; default: the fastest there is")
    group.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="default: what the device is fast in"
    )
    group.add_argument("--quantize", choices=["int8", "int4"], help="hold the weights in 8 or 4 bits")
    group.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="what fine-tuning made, put beside the model: a LoRA or a P-Tuning prefix",
    )
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--kv-memory",
        metavar="SIZE",
        help="for keys and values, such as 8GB or 512MB (4 contexts, if they fit)",
    )
    group.add_argument("--kv-dtype", choices=["int8"], help="hold keys and values in 8 bits")
    group.add_argument(
        "--speculate",
        type=int,
        metavar="N",
        help="tokens guessed ahead where an answer repeats its text; never another answer (8; on CUDA 0)",
    )
    group.add_argument("--threads", type=int, metavar="N", help="of the CPU; default: one for each core")


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """One flag for each sampling parameter."""
    group = parser.add_argument_group("sampling")
    for name, parameter in SAMPLING.items():
        flag = f"--{name.replace('_', '-')}"
        metavar = "N" if parameter.kind is int else "X"
        group.add_argument(flag, type=parameter.kind, metavar=metavar, help=parameter.help)


def add_tools(parser: argparse.ArgumentParser) -> None:
    """What the model may call: --tools, --mcp, --mcp-config, --interpreter, and how it is watched."""
    group = parser.add_argument_group("tools")
    group.add_argument(
        "--tools",
        metavar="NAMES",
        action="extend",
        type=lambda text: [name.strip() for name in text.split(",") if name.strip()],
        default=[],
        help="'builtin', built-in tools by name, my_tools.py with @tool functions, or definitions in a YAML "
        "or JSON file, whose calls you answer; several with commas",
    )
    group.add_argument(
        "--mcp",
        metavar="SERVER",
        action="append",
        default=[],
        help="a command or a URL; repeatable",
    )
    group.add_argument(
        "--mcp-config",
        metavar="FILE",
        action="append",
        default=[],
        help="a JSON file with mcpServers; repeatable",
    )
    group.add_argument("--interpreter", action="store_true", help="run the model's Python, isolated")
    group.add_argument(
        "--unsafe-interpreter",
        action="store_true",
        help="the same, with your own rights where this machine cannot isolate it",
    )
    group.add_argument("--strict-tools", action="store_true", help="hold every call to its tool's parameters")
    group.add_argument("--yes", action="store_true", help="run tools that write or run without asking")
    group.add_argument(
        "--images", metavar="FOLDER", default="chatglm3-images", help="where pictures go (chatglm3-images)"
    )


def sampling_params(args: argparse.Namespace, **more: Any) -> SamplingParams:
    """The sampling that the flags ask for; what is not given keeps the engine's default."""
    from chatglm3.engine import SamplingParams

    given = {name: getattr(args, name) for name in SAMPLING if getattr(args, name) is not None}
    return SamplingParams(**given, **more)


def use_threads(args: argparse.Namespace) -> None:
    """Compute on as many threads as --threads says."""
    if args.threads is None:
        return
    if args.threads < 1:
        raise InvalidParameterError(f"--threads is {args.threads}, but must be at least 1")
    import torch

    torch.set_num_threads(args.threads)  # the native kernels go by it as well


def load(args: argparse.Namespace) -> ChatGLM3:
    """The model that `add_model`'s arguments name, with the adapter."""
    from chatglm3.chat import ChatGLM3

    use_threads(args)

    adapters = list(parse_adapters(args.adapter).values())
    if len(adapters) > 1:
        raise InvalidParameterError(
            f"--adapter is given {len(adapters)} times, and here one answers; `chatglm3 serve` takes several"
        )
    return ChatGLM3.load(
        args.model,
        device=args.device,
        dtype=args.dtype,
        quantize=args.quantize,
        revision=args.revision,
        cache_bytes=kv_memory(args),
        kv_dtype=args.kv_dtype,
        speculate=args.speculate,
        adapter=adapters[0] if adapters else None,
    )


def kv_memory(args: argparse.Namespace) -> int | None:
    """What --kv-memory says, in bytes. Raises InvalidParameterError."""
    return None if args.kv_memory is None else parse_size("--kv-memory", args.kv_memory)


def parse_size(flag: str, text: str) -> int:
    """Bytes from `512MB`, `8GB` or a plain number. Raises InvalidParameterError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMG]?)B?", text.strip(), re.IGNORECASE)
    if not match:
        raise InvalidParameterError(f"{flag} is {text!r}; give a size such as 8GB or 512MB")
    return int(float(match[1]) * {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}[match[2].lower()])


def parse_adapters(given: Iterable[str]) -> dict[str, Path]:
    """Folders by name, from `NAME=DIR` or `DIR`, which has its own name. Raises InvalidParameterError."""
    adapters: dict[str, Path] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not equals or Path(text).exists():
            name, folder = Path(text).resolve().name, text
        if not name or not folder:
            raise InvalidParameterError(
                f"--adapter is {text!r}; give a folder, or a name as in poet=./adapter"
            )
        if name in adapters:
            raise InvalidParameterError(f"two adapters are named {name!r}; name them, as in poet=./adapter")
        adapters[name] = Path(folder)
    return adapters


def read_stdin() -> str:
    """All of standard input, which is UTF-8 whatever the locale says."""
    data = sys.stdin.buffer.read()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidMessageError(
            f"standard input is not UTF-8 (byte {error.start} is 0x{data[error.start]:02x}); "
            "convert it first, as in: iconv -f GB18030 -t UTF-8"
        ) from None
