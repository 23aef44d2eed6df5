"""Texts to calibrate with, as token ids: the user's file, or the ones that the package has."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from chatglm3.errors import InvalidMessageError, TokenizerError, TrainingDataError
from chatglm3.tokenizer import Tokenizer
from chatglm3.train.data import Pair, Problem, Record, encode_sample, read_records, to_sample
from chatglm3.train.data.dialogs import Refused

OWN_TEXTS = Path(__file__).with_name("texts.jsonl")
"""Conversations, tool calls, programs and prose, half Chinese and half English, written for this."""

MOST_TOKENS = 1 << 15
"""Taken of a larger file, a random part of it that is the same every time."""

FEWEST_TOKENS = 1 << 11
"""With fewer, weights would be fitted to these words and lose on all others."""

_LONGEST = 2048
"""Tokens of a piece; attention costs their square."""

_RECORDS = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet")


def calibration_samples(
    tokenizer: Tokenizer, path: str | Path | None = None, *, max_seq_len: int = _LONGEST
) -> list[list[int]]:
    """Token ids of about `MOST_TOKENS` tokens of a file, or of the package's own texts.

    path: conversations in any format that fine-tuning reads (.jsonl, .json, .parquet), also with records
    `{"text": ...}`; any other file is plain UTF-8 text. What is longer than max_seq_len or 2048 tokens is cut
    into pieces. Raises TrainingDataError, naming the place, where a file cannot be read or holds too little.
    """
    path = OWN_TEXTS if path is None else Path(path)
    longest = min(max_seq_len, _LONGEST)
    pieces: list[list[int]] = []
    for ids in _encoded(path, tokenizer):
        opening, body = tokenizer.prefix_ids, ids[len(tokenizer.prefix_ids) :]
        step = longest - len(opening)
        pieces += [opening + body[start : start + step] for start in range(0, len(body), step)]
    random.Random(0).shuffle(pieces)
    chosen: list[list[int]] = []
    total = 0
    for piece in pieces:
        if total >= MOST_TOKENS:
            break
        chosen.append(piece)
        total += len(piece)
    if total < FEWEST_TOKENS:
        raise TrainingDataError(
            f"{path} holds {total} tokens, and calibration wants {FEWEST_TOKENS} or more; add text, or leave "
            "the file out to take the package's own"
        )
    return chosen


def _encoded(path: Path, tokenizer: Tokenizer) -> Iterator[list[int]]:
    """The ids of every sample of a file, prefix first, until there are many more than will be taken."""
    if not path.name.endswith(_RECORDS):
        yield tokenizer.prefix_ids + tokenizer.encode(_text(path))
        return
    records = list(read_records(path))
    if broken := [item for item in records if isinstance(item, Problem)]:
        raise TrainingDataError(str(broken[0]))
    random.Random(0).shuffle(records)
    total = 0
    for record in records:
        if total >= MOST_TOKENS:
            break
        assert isinstance(record, Record)
        ids = _ids(record, tokenizer)
        total += len(ids)
        yield ids


def _ids(record: Record, tokenizer: Tokenizer) -> list[int]:
    try:
        if isinstance(record.value.get("text"), str):
            return tokenizer.prefix_ids + tokenizer.encode(record.value["text"])
        example = encode_sample(to_sample(record.value), tokenizer)
    except (Refused, InvalidMessageError, TokenizerError) as error:
        raise TrainingDataError(f"{record.where}: {error}") from None
    return example.prompt + example.chosen if isinstance(example, Pair) else example.ids


def _text(path: Path) -> str:
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not there"
        raise TrainingDataError(f"{path} is {kind}; give a text file, or conversations as .jsonl or .json")
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TrainingDataError(
            f"{path}: byte {error.start} is not UTF-8; convert the file, as in: iconv -f GB18030 -t UTF-8"
        ) from None
