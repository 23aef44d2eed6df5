"""`chatglm3 quantize`: write a copy of a model in 8 or 4 bits."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from chatglm3.cli.arguments import size
from chatglm3.errors import CheckpointError

EPILOG = """\
The copy is a model like any other: give its folder wherever a model is asked for. It is read weight by
weight, so that a 6B model needs little more memory than its copy will.

examples:
  chatglm3 quantize chatglm3-6b ./chatglm3-6b-int4 --scheme int4
  chatglm3 chat ./chatglm3-6b-int4"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    parser.add_argument("model", metavar="MODEL", help="a folder, or a hub's id")
    parser.add_argument("output", metavar="OUT", help="the folder to write; new or without weights")
    parser.add_argument(
        "--scheme", choices=["int8", "int4"], required=True, help="how many bits a weight takes"
    )
    parser.add_argument(
        "--group-size",
        type=int,
        default=32,
        metavar="N",
        help="weights that share a scale; fewer are nearer (32)",
    )
    parser.add_argument("--revision", help="branch, tag or commit of a model on a hub")


def run(args: argparse.Namespace) -> int:
    """Quantize while loading, and save."""
    from chatglm3.adapters import write_base
    from chatglm3.checkpoint import has_weights, load_model, save_model
    from chatglm3.config import ModelConfig
    from chatglm3.estimate import disk_bytes
    from chatglm3.hub import resolve
    from chatglm3.quant import QuantConfig

    scheme = QuantConfig(args.scheme, group_size=args.group_size)
    output = Path(args.output)
    if has_weights(output):
        raise CheckpointError(f"{output} holds weights already; give another folder")
    source = resolve(args.model, revision=args.revision)
    config = ModelConfig.from_folder(source)
    if config.prefix_length:
        raise CheckpointError(f"{source} has a P-Tuning prefix, which is not quantized; give its base model")
    model = load_model(source, quantize=scheme, config=config)
    save_model(model, model.config, output)
    write_base(output, args.model, source)  # so that its adapters are known to fit the copy
    for name in ("tokenizer.model", "tokenizer_config.json", "generation_config.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, output / name)
    print(f"{output}: {size(disk_bytes(output))}, from {size(disk_bytes(source))}")
    return 0
