"""`chatglm3 generate`: plain completion, of one text or of a file of texts at once."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from chatglm3.cli.arguments import add_model, add_sampling, load, read_stdin, sampling_params
from chatglm3.errors import InvalidMessageError, InvalidParameterError

if TYPE_CHECKING:
    from chatglm3.chat import Continuation
    from chatglm3.engine import TokenLogprob
    from chatglm3.tokenizer import Tokenizer

EPILOG = """\
The text is continued as it stands, without roles: the way of a base model.

--prompts takes one prompt a line; blank lines are skipped. In a file that ends in .jsonl each line is
{"prompt": ...}, and its other fields are handed on. All prompts are computed together.

One prompt is printed as it is written. Several prompts, --n, --logprobs and --output give JSON, one
object a line, in the order of the prompts:
{"prompt": ..., "completions": [{"text": ..., "finish_reason": "stop" | "length", "tokens": 12}]}

examples:
  chatglm3 generate chatglm3-6b-base --prompt "The capital of France is" --temperature 0 --max-tokens 8
  chatglm3 generate chatglm3-6b-base --prompts questions.jsonl --output answers.jsonl
  seq 3 | sed 's/$/ + 1 =/' | chatglm3 generate --prompts - --max-tokens 4"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    add_model(parser, default="nano")
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", metavar="TEXT", help="the text to continue")
    prompt.add_argument("--prompts", metavar="FILE", help="a file of texts; - is standard input")
    parser.add_argument("--output", metavar="FILE", help="write JSON lines there")
    add_sampling(parser)
    parser.add_argument("--n", type=int, default=1, metavar="N", help="continuations of each prompt (1)")
    parser.add_argument(
        "--logprobs",
        type=int,
        metavar="N",
        help="each token's log-probability, and the N likeliest instead of it",
    )


def run(args: argparse.Namespace) -> int:
    """Complete the prompts."""
    rows = [{"prompt": args.prompt}] if args.prompts is None else _read(args.prompts)
    sampling = sampling_params(args, n=args.n, logprobs=args.logprobs)
    model = load(args)
    with _output(args.output) as output:
        if args.prompts is None and args.output is None and args.n == 1 and args.logprobs is None:
            for piece in model.stream_text(args.prompt, sampling=sampling):
                output.write(piece)
                output.flush()
            output.write("\n")
            return 0
        results = model.generate_batch([row["prompt"] for row in rows], sampling=sampling)
        for row, continuations in zip(rows, results):
            completions = [_record(continuation, model.tokenizer) for continuation in continuations]
            output.write(json.dumps({**row, "completions": completions}, ensure_ascii=False) + "\n")
            output.flush()  # what is complete is kept, whatever interrupts the rest
    return 0


@contextlib.contextmanager
def _output(file: str | None) -> Iterator[TextIO]:
    """Standard output, or a file."""
    if file is None:
        yield sys.stdout
    else:
        with Path(file).open("w", encoding="utf-8") as output:
            yield output


def _read(file: str) -> list[dict[str, Any]]:
    """The prompts of a file. Raises InvalidMessageError naming file and line."""
    text = read_stdin() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise InvalidParameterError(f"--prompts {file}: there is no prompt in it")
    if not file.endswith(".jsonl"):
        return [{"prompt": line.removesuffix("\r")} for _, line in lines]
    rows = []
    for number, line in lines:
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InvalidMessageError(f"{file}, line {number}: not JSON ({error})") from None
        if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
            raise InvalidMessageError(
                f'{file}, line {number}: needs an object with a text "prompt", as {{"prompt": "Hi"}}'
            )
        if "completions" in row:
            raise InvalidMessageError(
                f'{file}, line {number}: the field "completions" is for the answers; rename it'
            )
        rows.append(row)
    return rows


def _record(continuation: Continuation, tokenizer: Tokenizer) -> dict[str, Any]:
    """One continuation as JSON has it."""
    completion = continuation.completion
    record: dict[str, Any] = {
        "text": continuation.text,
        "finish_reason": completion.finish_reason,
        "tokens": len(completion.ids),
    }
    if completion.error:
        record["error"] = completion.error
    if completion.logprobs is not None:
        record["logprobs"] = [_logprob(entry, tokenizer) for entry in completion.logprobs]
    return record


def _logprob(entry: TokenLogprob, tokenizer: Tokenizer) -> dict[str, Any]:
    def named(token: int, logprob: float) -> dict[str, Any]:
        return {"id": token, "token": tokenizer.id_to_piece(token), "logprob": logprob}

    return named(entry.token, entry.logprob) | {"top": [named(*other) for other in entry.top]}
