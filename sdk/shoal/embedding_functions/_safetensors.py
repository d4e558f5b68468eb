"""Read tensors from a safetensors file.

The format: eight bytes with the length of a JSON header, that header (name -> type, shape, place),
then the numbers, little-endian, in one block. The file is read and not mapped: one that is replaced
in place must not end the process that uses it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shoal.errors import DataLossError

__all__ = ["read_tensors"]

_DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
}


def read_tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read the tensors of a file, by name.

    Raises:
        DataLossError: It is not a whole safetensors file, or holds numbers of a type that is not
            read here.
    """
    block = np.fromfile(path, np.uint8)
    length = int.from_bytes(block[:8].tobytes(), "little")
    if len(block) < 8 or length > len(block) - 8:
        raise _damaged(path, "its header is cut off")
    try:
        header = json.loads(block[8 : 8 + length].tobytes())
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, AttributeError) as error:
        raise _damaged(path, f"its header is not a JSON object: {error}") from error
    numbers = block[8 + length :]
    return {name: _tensor(path, name, entry, numbers) for name, entry in entries.items()}


def _tensor(
    path: Path, name: str, entry: Mapping[str, Any], block: npt.NDArray[np.uint8]
) -> npt.NDArray[Any]:
    try:
        dtype = _DTYPES[entry["dtype"]]
        start, end = entry["data_offsets"]
        tensor: npt.NDArray[Any] = block[start:end].view(dtype).reshape(entry["shape"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"tensor {name!r} cannot be read: {error!r}") from error
    return tensor


def _damaged(path: Path, problem: str) -> DataLossError:
    return DataLossError(f"{path} is not a usable safetensors file: {problem}")
