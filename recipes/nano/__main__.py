"""`python -m recipes.nano STAGE`: make the embedded model from nothing."""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import replace
from pathlib import Path

from recipes.nano.settings import PACKAGE_DATA, SETTINGS

STAGES = ("data", "tokenizer", "train", "export", "evaluate", "transcripts", "card", "all")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m recipes.nano", description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument(
        "--size", choices=tuple(SETTINGS), default="cpu", help="which settings (default: cpu)"
    )
    parser.add_argument("--steps", type=int, help="train for so many steps instead of the setting's")
    parser.add_argument("--processes", type=int, default=2, help="CPU cores to train on (default: 2)")
    parser.add_argument(
        "--count", type=int, default=100, help="data: conversations to print; evaluate: cases a row"
    )
    parser.add_argument(
        "--split", choices=("train", "dev", "heldout"), default="heldout", help="evaluate: which cases"
    )
    parser.add_argument(
        "--model", type=Path, default=PACKAGE_DATA, help="where export writes and evaluate reads"
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    settings = SETTINGS[args.size]
    if args.steps:
        settings = replace(settings, steps=args.steps)

    if args.stage == "data":
        from recipes.nano.data import conversation

        for index in range(args.count):
            print(json.dumps(conversation(settings.seed, index), ensure_ascii=False))
        return 0

    if args.stage == "transcripts":
        from recipes.nano.transcripts import transcript

        print(transcript(args.model))
        return 0

    from recipes.nano import training

    if args.stage in ("tokenizer", "all"):
        training.tokenizer_of(settings)
    if args.stage in ("train", "all"):
        training.run(settings, args.processes)
    if args.stage in ("export", "all"):
        training.export(settings, args.model)
    if args.stage in ("evaluate", "all"):
        from recipes.nano import evaluation

        evaluation.report(args.model, settings, args.split, args.count)
    if args.stage == "card" or (args.stage == "all" and args.model.resolve() == PACKAGE_DATA):
        from recipes.nano.card import fill_cards

        fill_cards(args.model)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
