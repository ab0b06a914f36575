"""Sample inputs and expected outputs on disk: .npz files that hold plain arrays and nothing else."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from optimizer.errors import OptimizerError

EPOCH = (1980, 1, 1, 0, 0, 0)


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name as an uncompressed .npz whose bytes depend on nothing but them."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy", EPOCH), "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, _plain(name, np.asarray(array)), allow_pickle=False)


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz by name. Raises OptimizerError for anything but uncompressed plain arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            # Stored and no bigger together than the file: whatever it claims, it cannot unpack to more.
            if any(m.compress_type for m in members) or sum(m.file_size for m in members) > path.stat().st_size:
                raise ValueError("its arrays are compressed or overlap")
        with np.load(path, allow_pickle=False) as loaded:
            return {name: loaded[name] for name in loaded.files}
    except (ValueError, OSError, EOFError, KeyError, MemoryError, zipfile.BadZipFile) as error:
        raise OptimizerError(f"{path.name}: not a sample file of a bundle: {error}", "do not use the bundle") from None


def _plain(name: str, array: np.ndarray) -> np.ndarray:
    """The array in a dtype that .npy knows without pickle; texts become fixed-width unicode."""
    if array.dtype.kind == "O":
        return array.astype(np.str_)
    if array.dtype.kind == "V":  # bfloat16 and other types that numpy itself does not have
        raise OptimizerError(f"'{name}' has the dtype {array.dtype}, which .npy files cannot hold", "use float32 there")
    return array
