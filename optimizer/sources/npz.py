"""Arrays from an .npz file: one column per array, one example per row of their first axis."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from optimizer.errors import OptimizerError
from optimizer.protocols import Example
from optimizer.rows import Rows
from optimizer.schema import File, Strict

if TYPE_CHECKING:
    import numpy as np


class Options(Strict):
    path: File = Field(description=".npz file; all arrays have the same first axis")


def columns(options: Options) -> list[str]:
    """The names of the arrays, read from the archive's directory alone."""
    try:
        with zipfile.ZipFile(options.path) as archive:
            return [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
    except (zipfile.BadZipFile, OSError) as error:
        raise OptimizerError(f"{options.path} is no .npz file: {error}", "write it with numpy.savez") from None


def open(options: Options) -> Sequence[Example]:
    """The rows; arrays stored without compression are mapped, not read into memory."""
    names = columns(options)
    if not names:
        raise OptimizerError(f"{options.path} holds no array", "write it with numpy.savez(path, name=array)")
    arrays = {name: _array(options.path, name) for name in names}
    flat = [name for name, array in arrays.items() if array.ndim == 0]
    if flat:
        raise OptimizerError(f"{options.path}: '{flat[0]}' is a single value, not one per example", "leave it out")
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in lengths.items())
        raise OptimizerError(
            f"{options.path}: the arrays differ in length: {listed}", "every array needs one row per example"
        )
    return Rows(next(iter(lengths.values())), lambda i: {name: _row(array, i) for name, array in arrays.items()})


def _row(array: np.ndarray, index: int) -> object:
    import numpy as np

    value = array[index]
    return str(value) if isinstance(value, np.str_) else np.asarray(value)


def _array(path: Path, name: str) -> np.ndarray:
    import numpy as np

    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(f"{name}.npy")
        if info.compress_type == zipfile.ZIP_STORED:
            return _mapped(path, info)
        with np.load(path, allow_pickle=False) as arrays:
            return np.asarray(arrays[name])
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise OptimizerError(
            f"{path}: the array '{name}' cannot be read: {error}",
            "save plain numbers or text with numpy.savez; arrays of Python objects are refused, since they need pickle",
        ) from None


def _mapped(path: Path, info: zipfile.ZipInfo) -> np.ndarray:
    """A read-only map of a stored member: it lies in the file as a plain .npy, after its local header."""
    import numpy as np
    from numpy.lib import format as npy

    with path.open("rb") as stream:
        stream.seek(info.header_offset + 26)  # APPNOTE.TXT 4.3.7: name and extra lengths end the 30-byte header
        lengths = stream.read(4)
        stream.seek(int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little"), 1)
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
        if 0 in shape:
            return np.empty(shape, dtype)
        plain = np.memmap(path, dtype, mode="r", offset=stream.tell(), shape=(int(np.prod(shape)),))
        return plain.reshape(shape, order="F" if fortran else "C")
