"""`chatglm3 finetune`: teach a model with samples, or only check them."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from chatglm3.errors import ChatGLM3Error, InvalidParameterError

EPILOG = """\
A run is described by a small YAML file; examples/finetune holds one for each method. Words like
lora.rank=16 after it change single keys, and --keys lists them all. Samples may be in ChatGLM3's own
formats, OpenAI's messages, ShareGPT or Alpaca. They are checked before the first step, and nothing is
ever cut or left out unsaid. Ctrl-C ends the step, saves, and says how to go on.

examples:
  chatglm3 finetune --check train.jsonl --validation dev.jsonl --model chatglm3-6b
  chatglm3 finetune examples/finetune/lora.yaml
  chatglm3 finetune lora.yaml output=run2 lora.rank=16
  chatglm3 finetune lora.yaml resume=true
  torchrun --nproc_per_node 2 -m chatglm3 finetune full.yaml fsdp=true"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "words", metavar="CONFIG [KEY=VALUE ...]", nargs="*", help="a YAML file, then changes"
    )
    parser.add_argument("--keys", action="store_true", help="list every key with its default, and stop")
    group = parser.add_argument_group("check")
    group.add_argument(
        "--check", metavar="FILE", action="append", default=[], help="check samples; repeatable"
    )
    group.add_argument(
        "--validation", metavar="FILE", action="append", default=[], help="and these beside them"
    )
    group.add_argument("--model", default="nano", help="whose tokenizer counts the tokens (nano)")
    group.add_argument("--max-length", type=int, default=2048, metavar="N", help="tokens of a sample (2048)")


def run(args: argparse.Namespace) -> int:
    """Check, list the keys, or train."""
    if args.check:
        if args.words:
            raise InvalidParameterError(f"--check takes no configuration, and {args.words[0]!r} was given")
        return _check(args)
    try:
        return _keys() if args.keys else _train(args.words)
    except ModuleNotFoundError as error:
        extra = "dpo" if error.name == "trl" else "train"
        raise ChatGLM3Error(
            f"{error.name} is missing; install it with: pip install 'chatglm3[{extra}]'"
        ) from None


def _check(args: argparse.Namespace) -> int:
    from chatglm3.hub import resolve
    from chatglm3.tokenizer import Tokenizer
    from chatglm3.train.data import prepare, show_example
    from chatglm3.train.data.formats import Preference

    tokenizer = Tokenizer(resolve(args.model, weights=False))
    with tempfile.TemporaryDirectory(prefix="chatglm3-check-") as folder:
        prepared = prepare(args.check, args.validation, tokenizer, Path(folder), max_length=args.max_length)
        for problem in prepared.report.problems:
            print(problem)
        if len(prepared.train):
            print(f"\n{prepared.train.where(0)}, token by token (position, id, learnt, piece):")
            pair = prepared.kind is Preference
            example = prepared.train.pair(0) if pair else prepared.train[0]
            print(*show_example(example, tokenizer), sep="\n")
    print("", *prepared.report.lines(), sep="\n")
    print(f"counted with the tokenizer of {args.model}")
    count = len(prepared.report.problems)
    print(f"{count} problems" if count else "no problems")
    return 1 if count else 0


def _keys() -> int:
    from chatglm3.train.config import describe_keys

    for key, default, meaning in describe_keys():
        print(f"{key:28} {default or '-':18} {meaning}".rstrip())
    return 0


def _train(words: list[str]) -> int:
    from chatglm3.train.config import load_config

    path = words[0] if words and "=" not in words[0] else None
    if not words:
        raise InvalidParameterError("name a configuration, as in: chatglm3 finetune lora.yaml; see --help")
    config = load_config(path, words[1:] if path else words)

    from chatglm3.train.run import Interrupted, finetune

    try:
        metrics = finetune(config)
    except Interrupted as stopped:
        print(stopped)
        return 130
    _leave_group()
    for name, value in metrics.items():
        if name.startswith("eval_"):
            print(f"validation {name.removeprefix('eval_')}: {value:.4f}")
    print(f"done: {config.output}")
    return 0


def _leave_group() -> None:
    """Under torchrun: wait for the other processes, then take the process group down.

    gloo's threads abort a process that exits while they run, now and then; and the first process keeps the
    meeting place of all, so none may leave before the last has done its work.
    """
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
