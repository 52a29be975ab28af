"""Rows out of Parquet files, with pyarrow (pip install 'assay-client[parquet]'). A file may be
larger than memory.

For a client, rows of the columns that you name:

    client.submit(rows_from_parquet("rows.parquet", {"prompt": "instruction", "response": "output"}))

For `assay score` and `assay submit`, lines of JSON with all columns, whose names --field maps:

    python -m assay.parquet rows.parquet | assay score - --field prompt=instruction -o scores.jsonl
"""
from __future__ import annotations

import datetime
import decimal
import json
import sys
from typing import Any, Dict, Iterator, Mapping, Optional, Sequence

from .types import Row
from .wire import text_or_messages

BATCH_ROWS = 1024  # in memory at a time


def _records(path: Any, columns: Optional[Sequence[str]]) -> Iterator[Dict[str, Any]]:
    import pyarrow.parquet  # only this module needs it

    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
            yield from batch.to_pylist()


def _names(path: Any) -> Sequence[str]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        return list(file.schema_arrow.names)


def _fields_of(path: Any, fields: Optional[Mapping[str, str]]) -> Mapping[str, str]:
    """{key of a row: column}, of which both are there."""
    names, known = _names(path), set(Row.__annotations__)
    fields = {name: name for name in names} if fields is None else fields
    strange = sorted(set(fields) - known)
    if strange:
        raise ValueError(f"{path}: expected keys of a row, found {strange}: name the columns that "
                         "are read, as {'prompt': 'instruction'}")
    absent = sorted(set(fields.values()) - set(names))
    if absent:
        raise ValueError(f"{path}: expected columns {absent}, found {sorted(names)}")
    return fields


def rows_from_parquet(path: Any, fields: Optional[Mapping[str, str]] = None) -> Iterator[Row]:
    """Iterate over the rows. fields: {key of a row: column}; without it every column must have the
    name of a row's key. Columns that are not named are not read. A null is as good as absent, in
    messages too. ValueError for keys that rows do not have and for columns that are not there."""
    chosen = _fields_of(path, fields)
    for record in _records(path, sorted(set(chosen.values()))):
        row: Any = {key: text_or_messages(record[column]) for key, column in chosen.items()
                    if record[column] is not None}
        yield row


def _as_json(value: Any) -> Any:
    """Of what JSON does not have, dates and decimals as texts."""
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    raise TypeError(f"expected what JSON can hold, found {type(value).__name__}")


def json_lines(path: Any, columns: Optional[Sequence[str]] = None) -> Iterator[str]:
    """A line of JSON for each row, of all columns or of those named. ValueError for a value that
    JSON does not have, as bytes, with its row (from 1) and column."""
    for number, record in enumerate(_records(path, columns), 1):
        parts = []
        for name, value in record.items():
            try:
                parts.append(f"{json.dumps(name)}: {json.dumps(value, default=_as_json)}")
            except (TypeError, ValueError) as why:
                raise ValueError(f"{path}: row {number}: column {name!r}: {why}; name the columns "
                                 "that are to be read") from None
        yield "{" + ", ".join(parts) + "}"


def main(arguments: Sequence[str]) -> int:
    """python -m assay.parquet [--columns A,B] FILE ..: lines of JSON on stdout."""
    columns, files = None, list(arguments)
    if files[:1] == ["--columns"] and len(files) > 1:
        columns, files = files[1].split(","), files[2:]
    if not files or files[0].startswith("-"):
        print("usage: python -m assay.parquet [--columns A,B] FILE ..", file=sys.stderr)
        return 64
    try:
        for path in files:
            if columns and set(columns) - set(_names(path)):
                absent = sorted(set(columns) - set(_names(path)))
                raise ValueError(f"{path}: expected columns {absent}, found {sorted(_names(path))}")
            for line in json_lines(path, columns):
                print(line)
    except (OSError, ValueError) as why:  # pyarrow's errors of files are ValueErrors
        print(f"assay.parquet: {why}", file=sys.stderr)
        return 65
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
