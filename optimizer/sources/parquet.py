"""Rows of a parquet file: numbers, text, lists, and pictures as Hugging Face data sets store them."""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from optimizer.errors import OptimizerError, missing_extra, unknown
from optimizer.protocols import Example
from optimizer.rows import Rows
from optimizer.schema import File, Strict


class Options(Strict):
    path: File = Field(description=".parquet file; a struct{bytes, path} column gives the bytes")
    columns: list[str] = Field([], description="read only these columns; default: all")


def columns(options: Options) -> list[str]:
    """The names of the columns."""
    return options.columns or list(_file(options).schema_arrow.names)


def open(options: Options) -> Sequence[Example]:
    """The rows, read one row group at a time; the last group stays in memory."""
    file = _file(options)
    known = list(file.schema_arrow.names)
    for name in options.columns:
        if name not in known:
            raise unknown("column", name, known, where=str(options.path))
    counts = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
    starts = [0, *itertools.accumulate(counts)]

    @functools.lru_cache(maxsize=1)
    def group(number: int) -> Any:
        return file.read_row_group(number, columns=options.columns or None, use_threads=False)

    def row(index: int) -> Example:
        number = bisect.bisect_right(starts, index) - 1
        table = group(number)
        return {name: _cell(table.column(name)[index - starts[number]]) for name in table.column_names}

    return Rows(starts[-1], row)


def _file(options: Options) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise missing_extra("pyarrow", "data", "the data source 'parquet'") from None
    try:
        return pq.ParquetFile(options.path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise OptimizerError(f"{options.path} is no readable parquet file: {reason}", "check the file") from None


def _cell(scalar: Any) -> Any:
    """An Arrow scalar as bytes, text, or a numpy value that keeps its dtype; None where it is null."""
    import numpy as np
    import pyarrow as pa

    kind = scalar.type
    if not scalar.is_valid:
        return None
    if pa.types.is_struct(kind):
        return _encoded(scalar.as_py())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _list(scalar.values)
    if pa.types.is_primitive(kind) and not pa.types.is_temporal(kind):
        return np.asarray(scalar.as_py(), kind.to_pandas_dtype())
    return scalar.as_py()


def _encoded(value: dict[str, Any]) -> bytes:
    data = value.get("bytes")
    if isinstance(data, bytes):
        return data
    raise OptimizerError(
        f"a struct column without bytes (fields: {', '.join(value)})",
        "embed the file's bytes when writing the parquet file, as struct{bytes, path}",
    )


def _list(values: Any) -> Any:
    import numpy as np
    import pyarrow as pa

    if pa.types.is_primitive(values.type) and not values.null_count:
        return values.to_numpy(zero_copy_only=False)
    try:
        return np.stack([_cell(v) for v in values])
    except (ValueError, TypeError):
        raise OptimizerError("a nested list with nulls or rows of different lengths", "store a regular array") from None
