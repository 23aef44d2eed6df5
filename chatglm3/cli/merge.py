"""`chatglm3 merge`: write a model with an adapter in it."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from chatglm3.cli.arguments import size

EPILOG = """\
A LoRA is added to the weights it was trained beside; a P-Tuning prefix is put into the same folder, as
config.json then says. The result is a model like any other, and needs no adapter. It is read and written
weight by weight: 3 GB of memory do for a 6B model.

The layout 'chatglm' is that of the published models, 'glm' that of transformers' GlmForCausalLM, which other
programs take.

examples:
  chatglm3 merge chatglm3-6b ./my-adapter ./my-model
  chatglm3 merge chatglm3-6b ./my-adapter ./my-model-int4 --quantize int4
  chatglm3 merge chatglm3-6b ./my-adapter ./for-others --layout glm"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "base", metavar="BASE", help="the model that it was trained on: a folder, or a hub's id"
    )
    parser.add_argument("adapter", metavar="ADAPTER", help="the folder that fine-tuning made")
    parser.add_argument("output", metavar="OUT", help="the folder to write; new or without weights")
    parser.add_argument(
        "--layout", choices=["chatglm", "glm"], default="chatglm", help="names of the weights"
    )
    parser.add_argument("--quantize", choices=["int8", "int4"], help="write the weights in 8 or 4 bits")
    parser.add_argument("--revision", help="branch, tag or commit of a base on a hub")


def run(args: argparse.Namespace) -> int:
    """Merge, and take along what else belongs to a model."""
    from chatglm3.adapters import merge
    from chatglm3.estimate import disk_bytes
    from chatglm3.hub import resolve

    base, output = resolve(args.base, revision=args.revision), Path(args.output)
    merge(base, args.adapter, output, layout=args.layout, quantize=args.quantize)
    for name in ("tokenizer.model", "tokenizer_config.json", "generation_config.json"):
        if (base / name).is_file():
            shutil.copyfile(base / name, output / name)
    print(f"{output}: {size(disk_bytes(output))}, from {size(disk_bytes(base))} and {args.adapter}")
    return 0
