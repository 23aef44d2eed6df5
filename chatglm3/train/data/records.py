"""Files of training data as records, one at a time: `.jsonl`, `.json`, either of them gzipped, `.parquet`.

A `.json` file may hold one array, or a record a line as some published sets do. Lines are read as they are
asked for, so a file may be larger than memory; only an array is read whole.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from chatglm3.errors import TrainingDataError

_BOM = b"\xef\xbb\xbf"
"""Windows writes it in front of UTF-8."""


@dataclass(frozen=True)
class Record:
    """One sample as it stands in a file."""

    where: str
    """`train.jsonl:17` for a line, `train.json[16]` for an element of an array, counted from 0."""
    value: dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """Something that keeps a sample, or a file, from being learnt."""

    where: str
    field: str
    """`conversations[2].role`; empty where the sample as a whole is meant."""
    message: str
    """What is wrong and what to do about it."""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.field, self.message) if part)


def read_records(path: str | Path) -> Iterator[Record | Problem]:
    """Every record of a file in order, with a Problem in the place of each that cannot be read.

    Raises TrainingDataError where there is no such file or nothing here can read its kind.
    """
    path = Path(path)
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not there"
        raise TrainingDataError(f"{path} is {kind}; give a .jsonl, .json, .json.gz or .parquet file")
    empty = True
    for item in _parquet(path) if path.suffix == ".parquet" else _json(path):
        empty = False
        yield item
    if empty:
        yield Problem(str(path), "", "the file holds no sample; is it the right one, and was it written?")


def _json(path: Path) -> Iterator[Record | Problem]:
    number = 0
    try:
        with _open(path) as file:
            if path.name.removesuffix(".gz").endswith(".json") and _begins_array(path):
                yield from _array(path, file)
                return
            for number, line in enumerate(file, 1):
                text = line.removeprefix(_BOM) if number == 1 else line
                if text.strip():
                    yield _record(f"{path}:{number}", text)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        yield Problem(f"{path}:{number + 1}", "", f"the gzip file is damaged or cut off ({error})")


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _begins_array(path: Path) -> bool:
    with _open(path) as file:
        return file.read(1024).removeprefix(_BOM).lstrip().startswith(b"[")


def _array(path: Path, file: IO[bytes]) -> Iterator[Record | Problem]:
    try:
        items = json.loads(file.read().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        yield _not_utf8(str(path), error)
        return
    except ValueError as error:
        line = getattr(error, "lineno", "?")
        yield Problem(f"{path}:{line}", "", f"the file is not JSON: {error}")
        return
    for index, item in enumerate(items):
        yield _checked(f"{path}[{index}]", item)


def _record(where: str, line: bytes) -> Record | Problem:
    try:
        return _checked(where, json.loads(line.decode()))
    except UnicodeDecodeError as error:
        return _not_utf8(where, error)
    except ValueError as error:
        return Problem(where, "", f"the line is not JSON: {error}; write one JSON object a line")
    except RecursionError:
        return Problem(where, "", "the JSON is nested too deeply")


def _not_utf8(where: str, error: UnicodeDecodeError) -> Problem:
    return Problem(
        where, "", f"byte {error.start} is not UTF-8; convert the file, as in: iconv -f GB18030 -t UTF-8"
    )


def _checked(where: str, value: Any) -> Record | Problem:
    if not isinstance(value, dict):
        return Problem(where, "", f"a sample is a JSON object, not {type(value).__name__}: {value!r:.60}")
    return Record(where, value)


def _parquet(path: Path) -> Iterator[Record | Problem]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise TrainingDataError(f"{path} needs the package 'pyarrow': pip install datasets") from None
    try:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(256):
            for row in batch.to_pylist():
                # A column that other rows have is null here, and JSON would leave it out.
                yield Record(f"{path}[{number}]", _without_nulls(row))
                number += 1
    except pyarrow.ArrowException as error:
        yield Problem(str(path), "", f"the parquet file cannot be read: {error}")


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
