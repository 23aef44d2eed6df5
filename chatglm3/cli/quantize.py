"""`chatglm3 quantize`: write a copy of a model in 8 or 4 bits."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from chatglm3.cli.arguments import size
from chatglm3.errors import CheckpointError, InvalidParameterError

if TYPE_CHECKING:
    from chatglm3.quant import QuantConfig

EPILOG = """\
The copy is a model like any other: give its folder wherever a model is asked for. It is read weight by
weight, so that a 6B model needs little more memory than its copy will.

--calibrate runs texts through the model and chooses the weights for what they meet there (GPTQ): an int4 copy
as large and as fast as without it, and nearer to the original. FILE holds conversations as fine-tuning
takes them (.jsonl, .json, .parquet; {"text": ...} too) or plain text, the closer to the later use the
better; without FILE the texts that come with chatglm3 are taken.

examples:
  chatglm3 quantize chatglm3-6b ./chatglm3-6b-int4 --scheme int4
  chatglm3 quantize chatglm3-6b ./chatglm3-6b-int4 --calibrate
  chatglm3 quantize ./my-model ./my-model-int4 --calibrate train.jsonl
  chatglm3 chat ./chatglm3-6b-int4"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    parser.add_argument("model", metavar="MODEL", help="a folder, or a hub's id")
    parser.add_argument("output", metavar="OUT", help="the folder to write; new or without weights")
    parser.add_argument(
        "--scheme", choices=["int8", "int4"], default="int4", help="how many bits a weight takes (int4)"
    )
    parser.add_argument(
        "--group-size",
        type=int,
        default=32,
        metavar="N",
        help="weights that share a scale; fewer are nearer (32)",
    )
    parser.add_argument(
        "--calibrate",
        nargs="?",
        const="",
        metavar="FILE",
        help="choose int4 weights for the inputs that texts lead to; the last argument, or with a FILE",
    )
    parser.add_argument("--device", help="where to calibrate: cpu, cuda, cuda:1 (cuda where there is one)")
    parser.add_argument("--revision", help="branch, tag or commit of a model on a hub")


def run(args: argparse.Namespace) -> int:
    """Quantize while loading, and save."""
    from chatglm3.adapters import write_base
    from chatglm3.checkpoint import has_weights, load_model, save_model
    from chatglm3.config import ModelConfig
    from chatglm3.estimate import disk_bytes
    from chatglm3.hub import resolve
    from chatglm3.quant import QuantConfig

    if args.calibrate is None and args.device is not None:
        raise InvalidParameterError(f"--device {args.device} is for --calibrate; leave it out")
    scheme = QuantConfig(args.scheme, group_size=args.group_size)
    output = Path(args.output)
    if has_weights(output):
        raise CheckpointError(f"{output} holds weights already; give another folder")
    source = resolve(args.model, revision=args.revision)
    config = ModelConfig.from_folder(source)
    if config.prefix_length:
        raise CheckpointError(f"{source} has a P-Tuning prefix, which is not quantized; give its base model")
    if args.calibrate is None:
        model = load_model(source, quantize=scheme, config=config)
        save_model(model, model.config, output)
    else:
        _calibrate(source, output, scheme, config.max_seq_len, args)
    write_base(output, args.model, source)  # so that its adapters are known to fit the copy
    for name in ("tokenizer.model", "tokenizer_config.json", "generation_config.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, output / name)
    print(f"{output}: {size(disk_bytes(output))}, from {size(disk_bytes(source))}")
    return 0


def _calibrate(
    source: Path, output: Path, scheme: QuantConfig, max_seq_len: int, args: argparse.Namespace
) -> None:
    """Write the calibrated weights, and say on stderr how far it is."""
    from chatglm3.calibration import calibration_samples, write_calibrated
    from chatglm3.loading import choose_device
    from chatglm3.tokenizer import Tokenizer

    device = choose_device(args.device)
    if device.type == "mps" and args.device is None:
        device = choose_device("cpu")
    samples = calibration_samples(Tokenizer(source), args.calibrate or None, max_seq_len=max_seq_len)
    tokens = sum(map(len, samples))
    print(f"calibrating on {device} with {tokens:,} tokens in {len(samples)} pieces", file=sys.stderr)
    start = time.monotonic()

    def report(done: int, layers: int) -> None:
        left = (time.monotonic() - start) / done * (layers - done)
        print(f"layer {done} of {layers}, {left:.0f} s left", file=sys.stderr)

    write_calibrated(source, output, scheme, samples, device=device, progress=report)
