"""From files to stores of examples, with a report of everything that was met on the way."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from chatglm3.errors import InvalidMessageError, TokenizerError
from chatglm3.tokenizer import Tokenizer
from chatglm3.train.data.dialogs import Refused
from chatglm3.train.data.encoding import Pair, answers, encode_sample
from chatglm3.train.data.formats import (
    Completion,
    Conversation,
    Preference,
    Sample,
    format_of,
    to_sample,
    unread_fields,
)
from chatglm3.train.data.records import Problem, Record, read_records
from chatglm3.train.data.report import Report, SplitReport
from chatglm3.train.data.store import Store, StoreWriter
from chatglm3.train.encode import Example

_KINDS = {
    Conversation: "a conversation",
    Completion: "a completion without roles",
    Preference: "a preference pair",
}


@dataclass(frozen=True)
class Prepared:
    """Both splits, ready to learn from where `report.problems` is empty."""

    train: Store
    validation: Store | None
    report: Report
    kind: type[Sample] | None
    """Conversation, Completion or Preference; None where no sample could be read."""


def prepare(
    train: Sequence[str | Path],
    validation: Sequence[str | Path],
    tokenizer: Tokenizer,
    folder: Path,
    *,
    max_length: int,
    skip_long: bool = False,
) -> Prepared:
    """Read, check and encode every sample into stores below `folder`, which are written anew.

    max_length: tokens of a sample. A longer one is a problem, or left out and counted with skip_long.
    Nothing is cut. Raises TrainingDataError where a file is not there.
    """
    intake = _Intake(tokenizer, max_length, skip_long)
    report, stores = Report([], []), []
    prompts: dict[int, tuple[str, int]] = {}
    for name, paths in (("train", train), ("validation", validation)):
        split = SplitReport(name)
        shutil.rmtree(folder / name, ignore_errors=True)
        seen: dict[int, str] = {}
        with StoreWriter(folder / name) as writer:
            for path in paths:
                for where, example in intake.examples(Path(path), split):
                    writer.add(example, where)
                    prompt, whole = _hashes(example)
                    if whole in seen:
                        split.duplicates.append((where, seen[whole]))
                    seen.setdefault(whole, where)
                    if name == "train":
                        prompts.setdefault(prompt, (where, whole))
                    elif prompt in prompts:
                        report.leaks.append((where, prompts[prompt][0]))
                        report.same_answers += whole == prompts[prompt][1]
        if paths:
            report.splits.append(split)
        stores.append(Store(folder / name))
    return Prepared(stores[0], stores[1] if validation else None, report, intake.kind)


@dataclass
class _Intake:
    """Turns files into examples; what samples have to have in common is remembered from the first one on."""

    tokenizer: Tokenizer
    max_length: int
    skip_long: bool
    kind: type[Sample] | None = None
    _formats: dict[Path, tuple[str, str]] = field(default_factory=dict)
    """File -> the format of its first sample, and where that is."""
    _first: str = ""

    def examples(self, path: Path, split: SplitReport) -> Iterator[tuple[str, Example | Pair]]:
        """(where, example) of each sample that can be learnt; `split` is told of all others."""
        for item in read_records(path):
            if isinstance(item, Problem):
                split.problems.append(item)
                continue
            try:
                example = self._example(path, item)
                length = example.length if isinstance(example, Pair) else len(example.ids)
                if length > self.max_length and self.skip_long:
                    split.skipped.append(item.where)
                    continue
                self._check_length(length)
            except Refused as error:
                split.problems.append(Problem(item.where, error.field, error.message))
            except (InvalidMessageError, TokenizerError) as error:
                split.problems.append(Problem(item.where, "", str(error)))
            else:
                name = format_of(item.value)
                split.formats[name] += 1
                split.unread.update(unread_fields(name, item.value))
                split.lengths.append(length)
                split.learnt += len(example.chosen) if isinstance(example, Pair) else sum(example.learnt)
                yield item.where, example

    def _example(self, path: Path, record: Record) -> Example | Pair:
        sample = to_sample(record.value)
        name = format_of(record.value)
        first_name, first_where = self._formats.setdefault(path, (name, record.where))
        if name != first_name:
            raise Refused(
                "",
                f"is in the format {name}, and {first_where} is in {first_name}; give each a file of its own",
            )
        if self.kind is None:
            self.kind, self._first = type(sample), record.where
        if not isinstance(sample, self.kind):
            raise Refused(
                "",
                f"is {_KINDS[type(sample)]}, and {self._first} is {_KINDS[self.kind]}; a run learns from "
                "one kind",
            )
        return encode_sample(sample, self.tokenizer)

    def _check_length(self, length: int) -> None:
        if length > self.max_length:
            raise Refused(
                "",
                f"has {length} tokens, and max_length is {self.max_length}; split it, raise max_length, or "
                "leave such samples out with too_long=skip",
            )


def _hashes(example: Example | Pair) -> tuple[int, int]:
    """Of the prompt of the last answer, and of everything."""
    if isinstance(example, Pair):
        return _hash(example.prompt), _hash([*example.prompt, -1, *example.chosen, -1, *example.rejected])
    found = answers(example)
    return _hash(found[-1][0] if found else example.ids), _hash(example.ids)


def _hash(ids: list[int]) -> int:
    digest = hashlib.blake2b(np.array(ids, dtype=np.int32).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
