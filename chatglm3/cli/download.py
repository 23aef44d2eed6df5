"""`chatglm3 download`: fetch a model, and say where it is."""

from __future__ import annotations

import argparse

EPILOG = """\
The folder is printed; every other command finds the model by its name from then on, without the network.
A download that was cut is resumed. HF_TOKEN (or `hf auth login`) opens private models, HF_ENDPOINT names
a mirror, HF_HOME the cache.

examples:
  chatglm3 download chatglm3-6b
  chatglm3 download zai-org/chatglm3-6b-32k --revision main
  chatglm3 download modelscope:ZhipuAI/chatglm3-6b     (needs: pip install 'chatglm3[modelscope]')"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    parser.add_argument("model", metavar="MODEL", help="ORG/NAME on Hugging Face, or modelscope:ORG/NAME")
    parser.add_argument("--revision", help="branch, tag or commit; default: the newest")


def run(args: argparse.Namespace) -> int:
    """Fetch, check that all is there, and print the folder."""
    from chatglm3.checkpoint import stored_tensors
    from chatglm3.hub import resolve

    folder = resolve(args.model, revision=args.revision)
    stored_tensors(folder)
    print(folder)
    return 0
