"""The `chatglm3` command.

Every command is one module with `configure(parser)`, which declares its arguments, and `run(args)`, which
returns the exit code. A module is imported only when its command is called, and none imports PyTorch before
`run`, so that help and mistakes answer at once.

Exit codes: 0 done; 1 it could not be done; 2 wrong usage; 130 interrupted; 141 the reader of our output left.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import sys
from collections.abc import Sequence

from chatglm3 import __version__
from chatglm3.cli.arguments import Parser, describe, did_you_mean
from chatglm3.errors import ChatGLM3Error, InvalidParameterError

COMMANDS = {
    "chat": "talk with a model in the terminal, or pipe a question in",
    "generate": "continue a text, or a file of texts at once",
    "serve": "an OpenAI-compatible server",
    "finetune": "teach a model with samples, or check them",
    "web": "chat, tools and code interpreter in a browser",
    "info": "a model's shape and the memory it needs",
    "bench": "how fast a model runs here, and how near the machine's limits",
    "merge": "write a model with an adapter in it",
    "quantize": "write an int8 or int4 copy of a model",
    "download": "fetch a model from a hub",
    "doctor": "what this machine can do: devices, extras, isolation of the code interpreter",
}

EXAMPLES = """\
examples:
  chatglm3 chat                                     the small embedded model, offline
  chatglm3 chat chatglm3-6b --quantize int4         the 6B model in 5 GB of memory
  echo 你好 | chatglm3 chat                          one question, one answer
  chatglm3 generate --prompt "1, 2, 3,"             plain completion
  chatglm3 serve                                    OpenAI's API at http://127.0.0.1:8000/v1
  chatglm3 web                                      a page in the browser, at http://127.0.0.1:7860
  chatglm3 info chatglm3-6b                         what it needs before you run it

`chatglm3 COMMAND --help` explains a command.
exit codes: 0 done, 1 it could not be done, 2 wrong usage, 130 interrupted"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; an error of ours is one line on stderr."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")  # no locale stands in the way of 你好
    try:
        parser = _parser(words)
        if not words:
            parser.print_help(sys.stderr)
            return 2
        args = parser.parse_args(words)
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except InvalidParameterError as error:
        return _fail(error, 2)
    except (ChatGLM3Error, OSError) as error:
        if isinstance(error, BrokenPipeError):
            # Python flushes stdout once more at exit; what is left has no reader.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        return _fail(error, 1)
    except KeyboardInterrupt:
        return 130
    except (MemoryError, RuntimeError) as error:
        # PyTorch has a class for a full GPU, and only a text for a full machine.
        if not re.search("out of memory|(can't|not enough) (allocate )?memory|^$", str(error)):
            raise
        return _fail("there is not enough memory; try --quantize int4 or --quantize int8", 1)


def _parser(words: Sequence[str]) -> Parser:
    """The parser of the command named in `words`; the other commands are known by name only."""
    parser = Parser(
        prog="chatglm3",
        description="ChatGLM3 on your machine: chat, completion, quantization.",
        epilog=EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"chatglm3 {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    called = next((word for word in words if not word.startswith("-")), "")
    if called and called not in COMMANDS:
        parser.error(f"there is no command {called!r}{did_you_mean(called, COMMANDS)}")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name == called:
            module = importlib.import_module(f"chatglm3.cli.{name}")
            module.configure(command)
            command.set_defaults(run=module.run)
    return parser


def _fail(error: Exception | str, code: int) -> int:
    """Print one line and hand back the exit code."""
    print(f"error: {describe(error)}", file=sys.stderr)
    return code
