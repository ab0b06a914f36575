"""Rows of a TSV or CSV file, one column per field."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Literal

from pydantic import Field, model_validator

from optimizer.errors import OptimizerError, unknown
from optimizer.protocols import Example
from optimizer.rows import Rows
from optimizer.schema import File, Strict

DELIMITERS = {"tab": "\t", "comma": ","}


class Options(Strict):
    path: File = Field(description="a UTF-8 text file with one example per row")
    delimiter: Literal["tab", "comma", "auto"] = Field("auto", description="auto: by suffix, else by the first line")
    quotes: bool | None = Field(
        None, description='whether "..." encloses a field; default: with commas yes, with tabs no'
    )
    header: bool = Field(True, description="whether the first row names the columns")
    columns: list[str] = Field([], description="column names, where there is no header")
    numeric: list[str] | Literal["auto"] = Field([], description="columns of numbers; auto: by the first row")

    @model_validator(mode="after")
    def _named(self) -> Options:
        if not self.header and not self.columns:
            raise ValueError("without a header, 'columns' must name the columns")
        if self.header and self.columns:
            raise ValueError("'columns' is for files without a header (header: false)")
        return self


def columns(options: Options) -> list[str]:
    """The names of the columns."""
    return options.columns or next(_records(options), [])


def open(options: Options) -> Sequence[Example]:
    """The rows; the file is read through once for their places, then row by row when asked."""
    names = columns(options)
    if len(set(names)) < len(names) or not all(names):
        raise OptimizerError(
            f"{options.path}: column names are empty or repeated: {', '.join(names)}", "repair the header"
        )
    places = _places(options, len(names))
    numeric = set(_numeric(options, names, places))

    def row(index: int) -> Example:
        fields = next(_records(options, places[index]))
        return {n: _number(options, n, f, index) if n in numeric else f for n, f in zip(names, fields, strict=True)}

    return Rows(len(places), row)


def _numeric(options: Options, names: list[str], places: array[int]) -> list[str]:
    if options.numeric == "auto":
        first = next(_records(options, places[0])) if places else []
        return [name for name, field in zip(names, first, strict=False) if _parsed(field) is not None]
    for name in options.numeric:
        if name not in names:
            raise unknown("column", name, names, where=f"{options.path} (numeric)")
    return options.numeric


def _parsed(field: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(field)
        except ValueError:
            continue
    return None


def _number(options: Options, column: str, field: str, index: int) -> int | float:
    found = _parsed(field)
    if found is None:
        raise OptimizerError(
            f"{options.path}: row {index}: column '{column}' holds '{field[:60]}', not a number",
            "repair the row, or list the columns of numbers in 'numeric'",
        )
    return found


def _places(options: Options, width: int) -> array[int]:
    """Where each row starts, in bytes; every row has `width` fields."""
    places = array("q")
    with options.path.open("rb") as stream:
        start = 0
        for number, fields in enumerate(_parse(stream, options)):
            if number > 0 or not options.header:
                if len(fields) != width:
                    raise OptimizerError(
                        f"{options.path}: row {len(places)} has {len(fields)} fields where {width} are expected",
                        f"check delimiter, quotes and header; the row is {str(fields)[:120]}",
                    )
                places.append(start)
            start = stream.tell()
    return places


def _records(options: Options, start: int = 0) -> Iterator[list[str]]:
    with options.path.open("rb") as stream:
        stream.seek(start)
        yield from _parse(stream, options)


def _lines(stream: IO[bytes], path: Path) -> Iterator[str]:
    """Text lines, read one by one so that `tell` is right between rows; a byte order mark is dropped."""
    while line := stream.readline():
        try:
            yield line.decode("utf-8-sig" if stream.tell() == len(line) else "utf-8")
        except UnicodeDecodeError as error:
            raise OptimizerError(f"{path} is not UTF-8 text: {error}", "convert it to UTF-8") from None


def _parse(stream: IO[bytes], options: Options) -> Iterator[list[str]]:
    """The fields of each row from where the stream stands; blank lines are passed over."""
    delimiter = DELIMITERS.get(options.delimiter) or _guess(options.path)
    quotes = delimiter == "," if options.quotes is None else options.quotes
    # In unquoted TSV a field may begin with a quotation mark, which must not swallow the lines after it.
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    try:
        reader = csv.reader(_lines(stream, options.path), delimiter=delimiter, quoting=quoting, strict=True)
        yield from (fields for fields in reader if fields)
    except csv.Error as error:
        raise OptimizerError(
            f"{options.path} cannot be read as text with {delimiter!r} between fields: {error}",
            "check delimiter and quotes",
        ) from None


def _guess(path: Path) -> str:
    if path.suffix.lower() in (".tsv", ".csv"):
        return "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open("rb") as stream:
        return "\t" if b"\t" in stream.readline() else ","
